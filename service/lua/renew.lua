#!lua flags=allow-oom
-- One heartbeat for many leases.
-- KEYS: the queue stream and the job's keys, for each lease.
-- ARGV: worker, then id, stream, entry, attempt for each lease.
-- Returns 'held' | 'lost' | 'cancel' for each lease.
local worker, states = ARGV[1], {}
for i = 2, #ARGV, 4 do
  local id, stream, entry, attempt = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local status = held(id, worker, attempt)
  if status then
    -- Only behind the fence: XCLAIM by itself would let a woken zombie steal the lease back.
    redis.call('XCLAIM', stream, GROUP, worker, 0, entry, 'IDLE', 0, 'JUSTID')
    expire(id, ALIVE_S)
  end
  states[#states + 1] = status == 'running' and 'held' or status == 'canceling' and 'cancel'
    or 'lost'
end
return states
