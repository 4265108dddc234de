-- Shared by the scripts: what one needs of it is put behind the shebang, after the generated constants
--   MOVES, KEY (prefixes), PER_JOB, TIMES_S, EVENTS_MAXLEN, the shared keys by name, PRIORITIES,
--   ALIVE_S, RETENTION_S, LEASE_MS.
-- A part defines one name, and has blank lines around it and none inside.
-- Portable: Redis >= 7.0, Valkey >= 8. The only clock is the server's.

-- So much crowd must have been seen before its effect is half believed.
local DOUBT = 0.05

local function now()
  local t = redis.call('TIME')
  return string.format('%d.%06d', t[1], t[2])
end

local function expire(id, seconds)
  for _, kind in ipairs(PER_JOB) do
    if kind ~= 'followers' then redis.call('EXPIRE', KEY[kind] .. id, seconds) end
  end
end

-- Appends to the job's event log; returns the event's seq. `data` is a JSON object.
local function append(id, kind, data)
  local seq = redis.call('HINCRBY', KEY.job .. id, 'seq', 1)
  redis.call('XADD', KEY.events .. id, 'MAXLEN', '~', EVENTS_MAXLEN, seq .. '-0',
    'type', kind, 'at', now(), 'data', data)
  -- The log may have just been created, and no key is ever without an end.
  redis.call('EXPIRE', KEY.events .. id, ALIVE_S)
  redis.call('PUBLISH', KEY.live .. id, seq)
  return seq
end

-- Puts a message for the job's webhook into the outbox, where it asked for this event.
local function post(id, event)
  local job = redis.call('HMGET', KEY.job .. id, 'hook', 'hook_url')
  if not job[1] or not string.find(job[1], ' ' .. event .. ' ', 1, true) then return end
  local at = now()
  -- Unlike the job's, never used again; no dot, as that separates the parts of what is signed.
  local message = 'msg_' .. id .. '_' .. string.gsub(at, '%.', '')
  redis.call('HSET', KEY.job .. id, 'hook_last', message)
  redis.call('HSET', KEY.hook .. message, 'job', id, 'event', event, 'at', at, 'url', job[2],
    'tries', 0)
  redis.call('EXPIRE', KEY.hook .. message, HOOK_S)
  redis.call('ZADD', HOOKS, at, message)
  redis.call('EXPIRE', HOOKS, HOOK_S)
end

-- One allowed move and its event, or nothing and false.
local function move(id, to)
  local job = redis.call('HMGET', KEY.job .. id, 'status', 'attempt')
  if not job[1] or not MOVES[job[1]][to] then return false end
  redis.call('HSET', KEY.job .. id, 'status', to)
  append(id, 'status', '{"status":"' .. to .. '","attempt":' .. job[2] .. '}')
  post(id, to == 'running' and 'job.started' or 'job.' .. to)
  return true
end

-- Adds to a sorted set of all jobs; it lives as long as anything in it.
local function place(key, score, member)
  redis.call('ZADD', key, score, member)
  redis.call('EXPIRE', key, ALIVE_S)
end

-- One job more or less (`change`) of a worker; returns the seconds that workers have been busy, all
-- of them together: their growth over a span is how many were busy in it.
local function occupy(worker, change)
  local at, was = tonumber(now()), redis.call('HMGET', BUSY, 'at', 'seconds')
  local workers = redis.call('HLEN', HELD)
  local seconds = tonumber(was[2] or 0) + workers * (at - tonumber(was[1] or at))
  redis.call('HSET', BUSY, 'at', string.format('%.6f', at), 'seconds', string.format('%.6f', seconds))
  redis.call('EXPIRE', BUSY, ALIVE_S)
  if redis.call('HINCRBY', HELD, worker, change) <= 0 then redis.call('HDEL', HELD, worker) end
  redis.call('EXPIRE', HELD, ALIVE_S)
  return seconds
end

-- By what share each further busy worker slows the others down, as jobs have shown: nothing where
-- each has a machine of its own, much where they share its cores.
local function crowding()
  local sums = redis.call('HMGET', BUSY, 'crowd_slow', 'crowd_crowd')
  return math.max(0, tonumber(sums[1] or 0) / (tonumber(sums[2] or 0) + DOUBT))
end

-- Takes a job off its worker's hands; must come before the worker is taken off the record.
local function unlease(id)
  if redis.call('ZREM', LEASES, id) == 0 then return end
  local worker = redis.call('HGET', KEY.job .. id, 'owner')
  if not worker then return end
  redis.call('HSET', KEY.job .. id, 'busy_until', occupy(worker, -1))
end

-- A move to a terminal status: the job leaves every list, retention starts, the end is counted.
local function close(id, to)
  if not move(id, to) then return false end
  redis.call('ZREM', KEY.queue .. redis.call('HGET', KEY.job .. id, 'priority'), id)
  unlease(id)
  redis.call('ZREM', DEADLINES, id)
  redis.call('ZREM', WATCHED, id)
  redis.call('HSET', KEY.job .. id, 'finished_at', now())
  expire(id, RETENTION_S)
  redis.call('HINCRBY', ENDED, to, 1)
  redis.call('EXPIRE', ENDED, ALIVE_S)
  return true
end

-- Counts a time in the histogram of its kind, in the first bucket that it fits.
local function count_time(kind, seconds)
  local bucket = #TIMES_S + 1
  for i = #TIMES_S, 1, -1 do
    if seconds <= TIMES_S[i] then bucket = i end
  end
  redis.call('HINCRBY', TIMES, kind .. ':' .. bucket, 1)
  redis.call('HINCRBY', TIMES, kind .. ':ms', string.format('%d', seconds * 1000))
  redis.call('EXPIRE', TIMES, ALIVE_S)
end

-- How far a prediction was off, as a share of the time it took.
local function judge(id)
  local job = redis.call('HMGET', KEY.job .. id, 'predicted_s', 'created_at', 'finished_at')
  if not job[1] then return end
  local took = tonumber(job[3]) - tonumber(job[2])
  local off = math.abs(took - tonumber(job[1])) / math.max(took, 0.001)
  redis.call('LPUSH', ACCURACY, string.format('%.4f', off))
  redis.call('LTRIM', ACCURACY, 0, 999)
  redis.call('EXPIRE', ACCURACY, ALIVE_S)
end

-- Ends a job with a reason, as failed or expired; `data` is the JSON of an error event.
local function fail(id, data, to)
  to = to or 'failed'
  if not MOVES[redis.call('HGET', KEY.job .. id, 'status')][to] then return false end
  redis.call('HSET', KEY.job .. id, 'error', data)
  append(id, 'error', data)
  return close(id, to)
end

-- The fence: the job's status if this worker still holds this attempt, else nil; and another field.
local function held(id, worker, attempt, field)
  local job = redis.call('HMGET', KEY.job .. id, 'owner', 'attempt', 'status', field or 'status')
  if job[1] ~= worker or job[2] ~= attempt then return nil end
  if job[3] == 'running' or job[3] == 'canceling' then return job[3], job[4] end
  return nil
end

local function announce(stream)
  redis.call('XADD', stream, 'MAXLEN', 1, '*', 'news', 1)
  redis.call('EXPIRE', stream, ALIVE_S)
end

-- Wakes idle workers; they wait on this key, so that waiting reserves nothing.
local function ring() announce(BELL) end

-- Makes busy workers renew at once, and so learn what must end.
local function nudge() announce(NUDGE) end

-- Puts a job that was held back into its queue: before all that came later, as it keeps its tag.
local function requeue(id)
  local key = KEY.job .. id
  unlease(id)
  redis.call('HDEL', key, 'owner', 'started_at', 'progress', 'preview', 'progressed_at')
  if not move(id, 'queued') then return end
  local job = redis.call('HMGET', key, 'priority', 'tag')
  place(KEY.queue .. job[1], job[2], id)
  expire(id, ALIVE_S)
  ring()
end

-- Cancels: at once while queued, at the worker's next word while running.
local function cancel(id)
  local status = redis.call('HGET', KEY.job .. id, 'status')
  if status == 'queued' then
    close(id, 'canceled')
  elseif status == 'running' then
    move(id, 'canceling')
    nudge()
  end
end

local function give_up(id, attempt)
  local at = tonumber(now())
  redis.call('ZREMRANGEBYSCORE', DEAD, '-inf', at - RETENTION_S)
  redis.call('ZADD', DEAD, at, id)
  redis.call('EXPIRE', DEAD, RETENTION_S)
  fail(id, '{"code":"worker_lost","message":"the worker was lost or gave up ' .. attempt ..
    ' times","retryable":true}')
end

-- The first `count` members of a sorted set whose time has come.
local function due(key, count)
  return redis.call('ZRANGEBYSCORE', key, '-inf', now(), 'LIMIT', 0, count)
end

-- Leases of workers that have fallen silent: their jobs wait again, with the attempt counted.
local function sweep_leases()
  -- Times run on while the server is down, so after a start every lease looks expired:
  -- live workers get one lease to renew before anything is taken over.
  local uptime = string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)')
  if tonumber(uptime) * 1000 < LEASE_MS then return end
  for _, id in ipairs(due(LEASES, 100)) do
    local job = redis.call('HMGET', KEY.job .. id, 'status', 'attempt', 'max_attempts')
    if job[1] == 'canceling' then
      close(id, 'canceled')
    elseif job[1] ~= 'running' then
      redis.call('ZREM', LEASES, id)
    elseif tonumber(job[2]) >= tonumber(job[3]) then
      give_up(id, job[2])
    else
      requeue(id)
    end
  end
end

local function miss(id, name, at, status)
  local data = '{"code":"' .. name .. '_passed","message":"the job was ' .. status .. ' when its ' ..
    name .. ' of ' .. at .. ' s had passed","retryable":true}'
  if status == 'queued' then return fail(id, data, 'expired') end
  if fail(id, data) then nudge() end
end

-- Jobs whose start_by or finish_by has passed.
local function sweep_deadlines()
  for _, id in ipairs(due(DEADLINES, 100)) do
    local key = KEY.job .. id
    local job = redis.call('HMGET', key, 'status', 'created_at', 'start_by', 'finish_by')
    redis.call('ZREM', DEADLINES, id)
    local age = tonumber(now()) - tonumber(job[2] or 0)
    if job[1] == 'queued' and job[3] and age >= tonumber(job[3]) then
      miss(id, 'start_by', job[3], 'queued')
    elseif (job[1] == 'queued' or job[1] == 'running') and job[4] then
      if age >= tonumber(job[4]) then
        miss(id, 'finish_by', job[4], job[1])
      else
        place(DEADLINES, tonumber(job[2]) + tonumber(job[4]), id)
      end
    end
  end
end

-- Jobs to be canceled when nobody follows them any more.
local function sweep_watched()
  for _, id in ipairs(due(WATCHED, 100)) do
    local key = KEY.followers .. id
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now())
    local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
    redis.call('ZREM', WATCHED, id)
    if last[2] then
      place(WATCHED, last[2], id)
    else
      cancel(id)
    end
  end
end

local function sweep()
  sweep_leases()
  sweep_deadlines()
  sweep_watched()
end

-- The answer to a request that made a job before, under this id or key; else nil.
local function known(id, caller, payload, idempotency)
  local first = idempotency and redis.call('GET', idempotency) or id
  local job = redis.call('HMGET', KEY.job .. first, 'caller', 'payload')
  if not job[1] then return nil end
  return {job[1] == caller and job[2] == payload and 'known' or 'reused', first}
end

-- A new job's record and first event; returns the time.
local function record(id, priority, caller, payload, options, source, idempotency)
  local at = now()
  redis.call('DEL', KEY.events .. id)  -- of a job of this id that was deleted a moment ago
  redis.call('HSET', KEY.job .. id, 'status', 'queued', 'priority', priority, 'caller', caller,
    'payload', payload, 'attempt', 0, 'created_at', at, 'options', options, 'source', source,
    'seq', 0)
  local own = KEY.jobs .. caller
  redis.call('ZREMRANGEBYSCORE', own, '-inf', tonumber(at) - ALIVE_S - RETENTION_S)
  place(own, at, id)
  if idempotency then redis.call('SET', idempotency, id, 'EX', IDEMPOTENCY_S) end
  local hook = cjson.decode(options).webhook
  if hook then
    local events = table.concat(hook.events or HOOK_EVENTS, ' ')
    redis.call('HSET', KEY.job .. id, 'hook', ' ' .. events .. ' ', 'hook_url', hook.url)
  end
  append(id, 'status', '{"status":"queued","attempt":0}')
  return at
end
