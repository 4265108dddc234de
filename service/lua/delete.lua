#!lua flags=allow-oom
-- Ends the job if it has not ended, and forgets it; its followers still get the last event.
-- KEYS: the job's keys. ARGV: id. Returns 1, or 0 when there is no such job.
local id = ARGV[1]
local caller = redis.call('HGET', KEY.job .. id, 'caller')
if not caller then return 0 end
cancel(id)
-- A worker may hold it: it learns of the end by its next word, as nothing of the job is left.
close(id, 'canceled')
redis.call('ZREM', KEY.jobs .. caller, id)
redis.call('ZREM', DEAD, id)
for _, kind in ipairs(PER_JOB) do
  if kind ~= 'events' then redis.call('DEL', KEY[kind] .. id) end
end
redis.call('EXPIRE', KEY.events .. id, LINGER_S)
return 1
