#!lua flags=allow-oom
-- Gives a job back: claimable at once, by anyone.
-- KEYS: the job's keys. ARGV: id, worker, attempt, '1' if the attempt counts else '0'.
-- Returns 1, or 0 when the lease is lost.
local id = ARGV[1]
local status = held(id, ARGV[2], ARGV[3])
if not status then return 0 end
if status == 'canceling' then
  close(id, 'canceled')
  return 1
end
if ARGV[4] == '0' then redis.call('HINCRBY', KEY.job .. id, 'attempt', -1) end
requeue(id)
return 1
