#!lua flags=allow-oom
-- Counts jobs. KEYS: every queue. ARGV: none.
-- Returns the waiting jobs of each queue, then the running jobs of all.
local counts = {}
for i, queue in ipairs(KEYS) do counts[i] = redis.call('ZCARD', queue) end
counts[#counts + 1] = redis.call('ZCARD', LEASES)
return counts
