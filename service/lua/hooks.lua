#!lua flags=allow-oom
-- Leases webhook messages whose time has come to a dispatcher.
-- KEYS: every queue. ARGV: how many at most, seconds of the lease.
-- Returns {{message, job, event, at, url, tries, body ('' before the first try)}, ...}.
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', HOOKS, '-inf', now(), 'LIMIT', 0, ARGV[1])) do
  local key = KEY.hook .. id
  local hook = redis.call('HMGET', key, 'job', 'event', 'at', 'url', 'tries', 'body')
  local job = redis.call('HMGET', KEY.job .. (hook[1] or ''), 'status', 'hook')
  -- A target that wants no more has its job's `hook` taken away.
  if hook[1] and (job[2] or not job[1]) then
    redis.call('ZADD', HOOKS, tonumber(now()) + tonumber(ARGV[2]), id)
    taken[#taken + 1] = {id, hook[1], hook[2], hook[3], hook[4], hook[5], hook[6] or ''}
  else
    redis.call('ZREM', HOOKS, id)
  end
end
return taken
