#!lua flags=allow-oom
-- Cancels: at once while queued, at the worker's next heartbeat while running. Idempotent.
-- KEYS: every queue stream, ended, the job's keys. ARGV: id.
-- Returns the status afterwards, or false when there is no such job.
local id = ARGV[1]
local key = KEY.job .. id
local status = redis.call('HGET', key, 'status')
if status == 'queued' then
  close(id, 'canceled')
elseif status == 'running' then
  move(id, 'canceling')
end
return redis.call('HGET', key, 'status')
