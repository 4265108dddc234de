#!lua flags=allow-oom
-- A follower of a job that is canceled when its last one leaves: comes, stays, or leaves.
-- KEYS: the job's keys. ARGV: id, follower, seconds its membership lasts (0: it leaves), seconds
-- of grace for it or another to come back.
-- Returns 1, or 0 when the job has ended or is unknown.
local id, follower, lasts, key = ARGV[1], ARGV[2], tonumber(ARGV[3]), KEY.followers .. ARGV[1]
local status = redis.call('HGET', KEY.job .. id, 'status')
if status ~= 'queued' and status ~= 'running' then return 0 end
local at = tonumber(now())
if lasts > 0 then
  redis.call('ZADD', key, at + lasts, follower)
  redis.call('EXPIRE', key, ALIVE_S)
  place(WATCHED, at + lasts, id)
else
  redis.call('ZREM', key, follower)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', at)
  if redis.call('ZCARD', key) == 0 then place(WATCHED, at + tonumber(ARGV[4]), id) end
end
return 1
