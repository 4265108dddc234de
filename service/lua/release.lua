#!lua flags=allow-oom
-- Gives a job back: claimable at once, by anyone.
-- KEYS: the queue stream, bell, ended, the job's keys.
-- ARGV: id, worker, attempt, stream, entry, '1' if the attempt counts else '0'.
-- Returns 1, or 0 when the lease is lost.
local id, worker = ARGV[1], ARGV[2]
local status = held(id, worker, ARGV[3])
if not status then return 0 end
if status == 'canceling' then
  close(id, 'canceled')
  return 1
end
if ARGV[6] == '0' then redis.call('HINCRBY', KEY.job .. id, 'attempt', -1) end
redis.call('HDEL', KEY.job .. id, 'owner', 'started_at', 'progress')
redis.call('XCLAIM', ARGV[4], GROUP, RELEASED, 0, ARGV[5], 'JUSTID')
move(id, 'queued')
expire(id, ALIVE_S)
ring()
return 1
