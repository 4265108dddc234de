#!lua
-- Admits one job that is finished already, with the result of an equal one.
-- KEYS: every queue, the idempotency key, then the job's keys.
-- ARGV: id, priority, caller, the equal job's id, options, source info, payload (a digest), '1' if
-- the idempotency key counts else '0', result ('' where it is kept elsewhere).
-- Returns {'queued', id} | {'known', id} | {'reused', id}, as submit does, or {'gone'}.
local id, caller, payload, old = ARGV[1], ARGV[3], ARGV[7], KEY.job .. ARGV[4]
local idempotency = ARGV[8] == '1' and KEYS[#PRIORITIES + 1]
local found = known(id, caller, payload, idempotency)
if found then return found end
local equal = redis.call('HMGET', old, 'status', 'output', 'resolved', 'model', 'fingerprint')
if equal[1] ~= 'succeeded' then return {'gone'} end

record(id, ARGV[2], caller, payload, ARGV[5], ARGV[6], idempotency)
redis.call('HSET', KEY.job .. id, 'max_attempts', 0, 'cached', 1, 'output', equal[2],
  'resolved', equal[3], 'model', equal[4], 'fingerprint', equal[5])
if ARGV[9] ~= '' then redis.call('SET', KEY.result .. id, ARGV[9]) end
append(id, 'output', equal[2])
close(id, 'succeeded')
return {'queued', id}
