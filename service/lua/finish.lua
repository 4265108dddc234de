#!lua flags=allow-oom
-- Ends a job: result, record and events in one step, by the holder of the lease only.
-- KEYS: the job's keys.
-- ARGV: id, worker, attempt, 'succeeded' | 'failed' | 'canceled', detail (JSON), result bytes
-- ('' where they are kept elsewhere), seconds of the executor's time and steps ('' if unknown).
-- Returns 1 if the job ended as asked (also when asked again), else 0.

-- What jobs of a kind (with its size class, and without) cost, against their pixels: decaying sums for a line, and the mean of steps.
local function learn(kind, x, y, steps)
  local sums = cjson.decode(redis.call('HGET', COSTS, kind) or '[0,0,0,0,0,0]')
  local values = {1, x, y, x * x, x * y, steps}
  for i, value in ipairs(values) do
    sums[i] = tonumber(string.format('%.9g', 0.95 * sums[i] + value))
  end
  redis.call('HSET', COSTS, kind, cjson.encode(sums))
  redis.call('EXPIRE', COSTS, ALIVE_S)
end

local id, worker, attempt, to = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key = KEY.job .. id
local status = held(id, worker, attempt)

if not status then
  -- The answer to the first call may have been lost on the way.
  local job = redis.call('HMGET', key, 'owner', 'attempt', 'status')
  return job[1] == worker and job[2] == attempt and job[3] == to and 1 or 0
end

if status == 'canceling' then
  -- A cancel came first: whatever the worker wanted to say, the job ends canceled, and now.
  close(id, 'canceled')
  return to == 'canceled' and 1 or 0
end
if not MOVES[status][to] then return 0 end

if to == 'failed' then return fail(id, ARGV[5]) and 1 or 0 end

if ARGV[6] ~= '' then redis.call('SET', KEY.result .. id, ARGV[6]) end
redis.call('HSET', key, 'output', ARGV[5])
append(id, 'output', ARGV[5])
close(id, to)
judge(id)
local job = redis.call('HMGET', key, 'pace', 'pixels', 'cache', 'fingerprint')
if ARGV[7] ~= '' then
  for _, kind in ipairs({job[1], job[1]:match('^[^@]*')}) do
    learn(kind, tonumber(job[2]), tonumber(ARGV[7]), tonumber(ARGV[8]))
  end
end
if job[3] ~= '' and job[4] then
  redis.call('SET', KEY.cache .. job[3] .. ':' .. job[4], id, 'EX', RETENTION_S)
end
local took = tonumber(now()) - tonumber(redis.call('HGET', key, 'started_at'))
local mean = tonumber(redis.call('HGET', PACE, 'seconds') or took)
redis.call('HSET', PACE, 'seconds', string.format('%.3f', 0.8 * mean + 0.2 * took))
redis.call('EXPIRE', PACE, RETENTION_S)
return 1
