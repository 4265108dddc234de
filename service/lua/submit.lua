#!lua
-- Admits one job: source, record, queue entry and first event. Refused as a whole at maxmemory.
-- KEYS: bell, pace, every queue stream, then the job's keys.
-- ARGV: id, priority, queue_limit, max_attempts, options, source info, image.
-- Returns {'queued'} | {'known'} (the same id again) | {'full', waiting, running, mean seconds}.
local id, priority = ARGV[1], ARGV[2]
local job = KEY.job .. id
if redis.call('EXISTS', job) == 1 then return {'known'} end

local waiting, running = 0, 0
for _, stream in ipairs(KEYS) do
  if is_queue(stream) then
    local w, r = depth(stream)
    waiting, running = waiting + w, running + r
  end
end
if waiting >= tonumber(ARGV[3]) then
  return {'full', waiting, running, redis.call('HGET', PACE, 'seconds') or ''}
end

local entry = redis.call('XADD', KEY.queue .. priority, '*', 'id', id)
redis.call('HSET', job, 'status', 'queued', 'priority', priority, 'entry', entry,
  'attempt', 0, 'max_attempts', ARGV[4], 'created_at', now(),
  'options', ARGV[5], 'source', ARGV[6], 'seq', 0)
redis.call('SET', KEY.source .. id, ARGV[7])
append(id, 'status', '{"status":"queued","attempt":0}')
expire(id, ALIVE_S)
ring()
return {'queued'}
