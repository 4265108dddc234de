#!lua flags=allow-oom
-- Who runs and who waits: what a forecast is made of.
-- KEYS: every queue in claim order. ARGV: how many waiting jobs at most.
-- Returns {{held jobs}, {waiting jobs}, waiting jobs in all, crowding}; a job is {id, pace key,
-- pixels, owner, progress (JSON), seconds since then}, the last three '' for those that wait.
local held, waiting, count, most, at = {}, {}, 0, tonumber(ARGV[1]), tonumber(now())

local function row(id)
  local job = redis.call('HMGET', KEY.job .. id, 'pace', 'pixels', 'owner', 'progress',
    'started_at', 'progressed_at')
  local told = tonumber(job[6] or job[5] or at)
  return {id, job[1] or '', job[2] or '0', job[3] or '', job[4] or '', tostring(at - told)}
end

for _, id in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do held[#held + 1] = row(id) end
for _, queue in ipairs(KEYS) do
  count = count + redis.call('ZCARD', queue)
  if #waiting < most then
    for _, id in ipairs(redis.call('ZRANGE', queue, 0, most - #waiting - 1)) do
      waiting[#waiting + 1] = row(id)
    end
  end
end
return {held, waiting, count, tostring(crowding())}
