#!lua flags=allow-oom
-- One heartbeat for many leases.
-- KEYS: the job's keys, for each lease. ARGV: worker, then id and attempt for each lease.
-- Returns 'held' | 'lost' | 'cancel' for each lease.
local worker, states = ARGV[1], {}
sweep_deadlines()
sweep_watched()
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  local status = held(id, worker, ARGV[i + 1])
  if status then
    place(LEASES, tonumber(now()) + LEASE_MS / 1000, id)
    expire(id, ALIVE_S)
  end
  states[#states + 1] = status == 'running' and 'held' or status == 'canceling' and 'cancel'
    or 'lost'
end
return states
