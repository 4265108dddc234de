#!lua flags=allow-oom
-- Creates the groups and forgets consumers of workers long gone. Safe at any time.
-- KEYS: every queue stream. ARGV: none. Returns nothing.
for _, stream in ipairs(KEYS) do
  local made = redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, GROUP)) do
    local info = {}
    for i = 1, #consumer, 2 do info[consumer[i]] = consumer[i + 1] end
    -- Deleting a consumer drops what it holds, so only an empty one may go.
    if info.pending == 0 and info.idle > ALIVE_S * 1000 then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, info.name)
    end
  end
end
return false
