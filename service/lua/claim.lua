#!lua flags=allow-oom
-- Leases at most n jobs to a worker, high priority first; within one priority what was given
-- back, then expired leases, then new entries.
-- KEYS: every queue stream in claim order, dead, ended. (The jobs' own keys are only known inside.)
-- ARGV: worker, n.
-- Returns {{id, entry, stream, attempt, options}, ...}.
local worker, n = ARGV[1], tonumber(ARGV[2])
local taken = {}

-- Idle times run on while the server is down, so after a start every lease looks expired:
-- live workers get one lease to renew before anything is taken over.
local uptime = string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)')
local takeover = tonumber(uptime) * 1000 >= LEASE_MS

local function forget(stream, entry)
  redis.call('XACK', stream, GROUP, entry)
  redis.call('XDEL', stream, entry)
end

local function give_up(id, attempt)
  local at = tonumber(now())
  redis.call('ZREMRANGEBYSCORE', DEAD, '-inf', at - RETENTION_S)
  redis.call('ZADD', DEAD, at, id)
  redis.call('EXPIRE', DEAD, RETENTION_S)
  fail(id, '{"code":"worker_lost","message":"the worker was lost or gave up ' .. attempt ..
    ' times","retryable":true}')
end

local function take(stream, entry, id)
  local key = KEY.job .. id
  local job = redis.call('HMGET', key, 'status', 'attempt', 'max_attempts', 'options', 'entry')
  local status, attempt = job[1], tonumber(job[2])
  if not status or job[5] ~= entry then return forget(stream, entry) end
  if status == 'canceling' then return close(id, 'canceled') end
  if not MOVES[status].running then return forget(stream, entry) end
  if redis.call('EXISTS', KEY.source .. id) == 0 then
    if close(id, 'expired') then return end
    return fail(id, '{"code":"source_lost","message":"the upload is gone","retryable":true}')
  end
  if attempt >= tonumber(job[3]) then return give_up(id, attempt) end
  redis.call('HSET', key, 'owner', worker, 'attempt', attempt + 1, 'started_at', now())
  redis.call('HDEL', key, 'progress')
  move(id, 'running')
  expire(id, ALIVE_S)
  taken[#taken + 1] = {id, entry, stream, attempt + 1, job[4]}
end

local function take_all(stream, entries)
  for _, e in ipairs(entries) do take(stream, e[1], e[2][2]) end
end

local function take_released(stream)
  while #taken < n do
    local back = redis.call('XPENDING', stream, GROUP, '-', '+', n - #taken, RELEASED)
    if #back == 0 then return end
    local ids = {}
    for i, e in ipairs(back) do ids[i] = e[1] end
    take_all(stream, redis.call('XCLAIM', stream, GROUP, worker, 0, unpack(ids)))
  end
end

local function take_expired(stream)
  local cursor = '0-0'
  while takeover and #taken < n do
    local r = redis.call('XAUTOCLAIM', stream, GROUP, worker, LEASE_MS, cursor,
      'COUNT', n - #taken)
    take_all(stream, r[2])
    cursor = r[1]
    if cursor == '0-0' then return end
  end
end

local function take_new(stream)
  while #taken < n do
    local r = redis.call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', n - #taken,
      'STREAMS', stream, '>')
    if not r then return end
    take_all(stream, r[1][2])
  end
end

for _, stream in ipairs(KEYS) do
  if is_queue(stream) then
    take_released(stream)
    take_expired(stream)
    take_new(stream)
  end
end
return taken
