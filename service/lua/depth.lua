#!lua flags=allow-oom
-- Counts jobs. KEYS: every queue stream. ARGV: none.
-- Returns the waiting jobs of each stream, then the running jobs of all.
local counts, running = {}, 0
for i, stream in ipairs(KEYS) do
  local w, r = depth(stream)
  counts[i], running = w, running + r
end
counts[#counts + 1] = running
return counts
