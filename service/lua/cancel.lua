#!lua flags=allow-oom
-- Cancels: at once while queued, before its next step while running. Idempotent.
-- KEYS: the job's keys. ARGV: id.
-- Returns the status afterwards, or false when there is no such job.
cancel(ARGV[1])
return redis.call('HGET', KEY.job .. ARGV[1], 'status')
