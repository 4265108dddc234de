#!lua flags=allow-oom
-- Appends one progress or preview event; of the preview frames only the newest is kept.
-- KEYS: the job's keys. ARGV: id, worker, attempt, type, data (JSON), frame ('' for none).
-- Returns 1, or 0 when the lease is lost.
local id, kind = ARGV[1], ARGV[4]
if not held(id, ARGV[2], ARGV[3]) then return 0 end
local seq = append(id, kind, ARGV[5])
if kind == 'progress' then
  redis.call('HSET', KEY.job .. id, 'progress', ARGV[5], 'progressed_at', now())
end
if ARGV[6] ~= '' then
  redis.call('HSET', KEY.preview .. id, 'seq', seq, 'frame', ARGV[6])
  redis.call('EXPIRE', KEY.preview .. id, ALIVE_S)
end
return 1
