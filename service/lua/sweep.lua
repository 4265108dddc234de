#!lua flags=allow-oom
-- Ends what time has ended: leases, deadlines, jobs that nobody follows. For when no worker claims.
-- KEYS: every queue. ARGV: none. Returns nothing.
sweep()
return false
