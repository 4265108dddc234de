#!lua
-- Admits one job: source, record, place in the queue and first event. Refused as a whole at
-- maxmemory. Within a priority, callers take turns (start-time fair queueing): a job's tag is the
-- virtual time now, or where its caller's last job ended if that is later.
-- KEYS: every queue, the idempotency key, then the job's keys.
-- ARGV: id, priority, caller, queue limit, max attempts, options, source info, payload (a digest),
-- '1' if the idempotency key counts else '0', image ('' where it is kept elsewhere), start_by and
-- finish_by in seconds ('' for none), pace key, pixels, cache key ('' for none).
-- Returns {'queued', id} | {'known', id} (asked for before) | {'reused', id} (with another payload)
-- | {'full', waiting, running, mean seconds}.
local id, priority, caller, payload = ARGV[1], ARGV[2], ARGV[3], ARGV[8]
local idempotency = ARGV[9] == '1' and KEYS[#PRIORITIES + 1]
local found = known(id, caller, payload, idempotency)
if found then return found end

local waiting = 0
for _, name in ipairs(PRIORITIES) do waiting = waiting + redis.call('ZCARD', KEY.queue .. name) end
if waiting >= tonumber(ARGV[4]) then
  local running = redis.call('ZCARD', LEASES)
  return {'full', waiting, running, redis.call('HGET', PACE, 'seconds') or ''}
end

local clock = tonumber(redis.call('HGET', CLOCK, priority) or '0')
local share = KEY.shares .. priority
local tag = math.max(clock, tonumber(redis.call('ZSCORE', share, caller) or '0'))
place(share, tag + 1, caller)
place(KEY.queue .. priority, tag, id)
local at = record(id, priority, caller, payload, ARGV[6], ARGV[7], idempotency)
redis.call('HSET', KEY.job .. id, 'tag', tag, 'max_attempts', ARGV[5])
if ARGV[10] ~= '' then redis.call('SET', KEY.source .. id, ARGV[10]) end
redis.call('HSET', KEY.job .. id, 'pace', ARGV[13], 'pixels', ARGV[14], 'cache', ARGV[15])
local first
for i, name in ipairs({'start_by', 'finish_by'}) do
  if ARGV[10 + i] ~= '' then
    redis.call('HSET', KEY.job .. id, name, ARGV[10 + i])
    first = math.min(first or math.huge, tonumber(ARGV[10 + i]))
  end
end
if first then place(DEADLINES, tonumber(at) + first, id) end
expire(id, ALIVE_S)
ring()
return {'queued', id}
