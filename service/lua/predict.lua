#!lua flags=allow-oom
-- Remembers the first prediction of a job, to be judged when it has ended.
-- KEYS: the job's keys. ARGV: id, seconds from its submission to its end. Returns nothing.
local key = KEY.job .. ARGV[1]
if redis.call('HEXISTS', key, 'status') == 1 then redis.call('HSETNX', key, 'predicted_s', ARGV[2]) end
return false
