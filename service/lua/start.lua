#!lua flags=allow-oom
-- Records what the restoration was resolved to.
-- KEYS: the job's keys. ARGV: id, worker, attempt, resolved parameters (JSON), model, fingerprint.
-- Returns 1, or 0 when the lease is lost.
if not held(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('HSET', KEY.job .. ARGV[1], 'resolved', ARGV[4], 'model', ARGV[5],
  'fingerprint', ARGV[6])
return 1
