#!lua flags=allow-oom
-- Appends one progress or preview event; of the preview frames only the newest is kept.
-- KEYS: the job's keys. ARGV: id, worker, attempt, type, data (JSON), frame ('' for none).
-- Returns 1, or 0 when the lease is lost. The same event once more, as its answer was lost on the
-- way, is in the log already.
local id, kind, data = ARGV[1], ARGV[4], ARGV[5]
local status, last = held(id, ARGV[2], ARGV[3], kind)
if not status then return 0 end
if last == data then return 1 end
local seq = append(id, kind, data)
if kind == 'progress' then
  redis.call('HSET', KEY.job .. id, kind, data, 'progressed_at', now())
else
  redis.call('HSET', KEY.job .. id, kind, data)
end
if ARGV[6] ~= '' then
  redis.call('HSET', KEY.preview .. id, 'seq', seq, 'frame', ARGV[6])
  redis.call('EXPIRE', KEY.preview .. id, ALIVE_S)
end
return 1
