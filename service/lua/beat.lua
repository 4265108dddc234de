#!lua flags=allow-oom
-- A worker's own heartbeat; it is gone one lease after the last.
-- KEYS: worker, workers. ARGV: worker id, info (JSON). Returns nothing.
local at = now()
redis.call('HSET', KEYS[1], 'info', ARGV[2], 'at', at)
redis.call('PEXPIRE', KEYS[1], LEASE_MS)
redis.call('ZADD', KEYS[2], at, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', tonumber(at) - LEASE_MS / 1000)
redis.call('PEXPIRE', KEYS[2], LEASE_MS)
return false
