#!lua flags=allow-oom
-- Leases at most n jobs to a worker, high priority first, each priority by virtual time.
-- KEYS: every queue in claim order, the worker's claim. (The jobs' own keys are only known inside.)
-- ARGV: worker, n, '1' if uploads are kept in this server else '0', the claim's name.
-- Returns {{id, attempt, options}, ...}; asked again by the same name, what is still held of it.
local worker, n, taken, name = ARGV[1], tonumber(ARGV[2]), {}, ARGV[4]
local memory = KEYS[#KEYS]
sweep()

local last = cjson.decode(redis.call('GET', memory) or '{}')
if last.name == name then
  for _, lease in ipairs(last.taken) do
    if held(lease[1], worker, tostring(lease[2])) then taken[#taken + 1] = lease end
  end
  return taken
end

local function take(id, tag, priority)
  local key = KEY.job .. id
  local job = redis.call('HMGET', key, 'status', 'attempt', 'max_attempts', 'options', 'created_at')
  if not job[1] or not MOVES[job[1]].running then return end
  if ARGV[3] == '1' and redis.call('EXISTS', KEY.source .. id) == 0 then
    return fail(id, '{"code":"source_lost","message":"the upload is gone","retryable":true}',
      'expired')
  end
  local attempt = tonumber(job[2])
  if attempt >= tonumber(job[3]) then return give_up(id, attempt) end
  local at = now()
  redis.call('HSET', key, 'owner', worker, 'attempt', attempt + 1, 'started_at', at,
    'busy_from', occupy(worker, 1))
  local waited = tonumber(at) - tonumber(job[5])
  if redis.call('HSETNX', key, 'waited', waited) == 1 then count_time('wait', waited) end
  move(id, 'running')
  expire(id, ALIVE_S)
  place(LEASES, tonumber(at) + LEASE_MS / 1000, id)
  local clock = tonumber(redis.call('HGET', CLOCK, priority) or '0')
  redis.call('HSET', CLOCK, priority, math.max(clock, tonumber(tag)))
  redis.call('EXPIRE', CLOCK, ALIVE_S)
  taken[#taken + 1] = {id, attempt + 1, job[4]}
end

for _, priority in ipairs(PRIORITIES) do
  while #taken < n do
    local first = redis.call('ZPOPMIN', KEY.queue .. priority)
    if #first == 0 then break end
    take(first[1], first[2], priority)
  end
end
if #taken > 0 then
  redis.call('SET', memory, cjson.encode({name = name, taken = taken}), 'PX', LEASE_MS)
end
return taken
