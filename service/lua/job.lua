-- Shared by every script: put behind the shebang, after the generated constants
--   MOVES, KEY (prefixes), GROUP, RELEASED, EVENTS_MAXLEN, BELL, DEAD, ENDED, PACE,
--   ALIVE_S, RETENTION_S, LEASE_MS.
-- Portable: Redis >= 7.0, Valkey >= 8. The only clock is the server's.

local function now()
  local t = redis.call('TIME')
  return string.format('%d.%06d', t[1], t[2])
end

local function expire(id, seconds)
  for _, kind in ipairs({'job', 'events', 'preview', 'source', 'result'}) do
    redis.call('EXPIRE', KEY[kind] .. id, seconds)
  end
end

-- Appends to the job's event log; returns the event's seq. `data` is a JSON object.
local function append(id, kind, data)
  local seq = redis.call('HINCRBY', KEY.job .. id, 'seq', 1)
  redis.call('XADD', KEY.events .. id, 'MAXLEN', '~', EVENTS_MAXLEN, seq .. '-0',
    'type', kind, 'at', now(), 'data', data)
  -- The log may have just been created, and no key is ever without an end.
  redis.call('EXPIRE', KEY.events .. id, ALIVE_S)
  return seq
end

-- One allowed move and its event, or nothing and false.
local function move(id, to)
  local job = redis.call('HMGET', KEY.job .. id, 'status', 'attempt')
  if not job[1] or not MOVES[job[1]][to] then return false end
  redis.call('HSET', KEY.job .. id, 'status', to)
  append(id, 'status', '{"status":"' .. to .. '","attempt":' .. job[2] .. '}')
  return true
end

-- A move to a terminal status: the entry leaves the queue, retention starts, the end is counted.
local function close(id, to)
  local job = redis.call('HMGET', KEY.job .. id, 'priority', 'entry')
  if not move(id, to) then return false end
  local stream = KEY.queue .. job[1]
  redis.call('XACK', stream, GROUP, job[2])
  redis.call('XDEL', stream, job[2])
  redis.call('HSET', KEY.job .. id, 'finished_at', now())
  expire(id, RETENTION_S)
  redis.call('HINCRBY', ENDED, to, 1)
  redis.call('EXPIRE', ENDED, ALIVE_S)
  return true
end

-- Ends a job as failed with the reason; `data` is the JSON of an error event.
local function fail(id, data)
  redis.call('HSET', KEY.job .. id, 'error', data)
  append(id, 'error', data)
  return close(id, 'failed')
end

-- The fence: the job's status if this worker still holds this attempt, else nil.
local function held(id, worker, attempt)
  local job = redis.call('HMGET', KEY.job .. id, 'owner', 'attempt', 'status')
  if job[1] ~= worker or job[2] ~= attempt then return nil end
  if job[3] == 'running' or job[3] == 'canceling' then return job[3] end
  return nil
end

-- Wakes idle workers; they wait on this key, so that waiting reserves nothing.
local function ring()
  redis.call('XADD', BELL, 'MAXLEN', 1, '*', 'work', 1)
  redis.call('EXPIRE', BELL, ALIVE_S)
end

local function is_queue(key)
  return string.sub(key, 1, #KEY.queue) == KEY.queue
end

-- Waiting and held entries of one stream; what a worker gave back waits.
local function depth(stream)
  local pending = redis.call('XPENDING', stream, GROUP)
  local running = pending[1]
  for _, consumer in ipairs(pending[4] or {}) do
    if consumer[1] == RELEASED then running = running - tonumber(consumer[2]) end
  end
  return redis.call('XLEN', stream) - running, running
end
