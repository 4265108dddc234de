#!lua flags=allow-oom
-- Ends a job: result, record and events in one step, by the holder of the lease only.
-- KEYS: the job's keys.
-- ARGV: id, worker, attempt, 'succeeded' | 'failed' | 'canceled', detail (JSON), result bytes
-- ('' where they are kept elsewhere), seconds of the executor's time and steps ('' if unknown).
-- Returns 1 if the job ended as asked (also when asked again), else 0.

-- What jobs of a kind cost against their pixels: decaying sums for a line, and the mean of steps.
local function learn_line(kind, x, y, steps)
  local sums = cjson.decode(redis.call('HGET', COSTS, kind) or '[0,0,0,0,0,0]')
  local values = {1, x, y, x * x, x * y, steps}
  for i, value in ipairs(values) do
    sums[i] = tonumber(string.format('%.9g', 0.95 * sums[i] + value))
  end
  redis.call('HSET', COSTS, kind, cjson.encode(sums))
  redis.call('EXPIRE', COSTS, ALIVE_S)
end

-- What the last jobs of a kind and size class cost, the newest first.
local function costs_of(sized)
  return cjson.decode(redis.call('HGET', COSTS, sized) or '[]')
end

local function learn_cost(sized, seconds)
  local costs = costs_of(sized)
  table.insert(costs, 1, tonumber(string.format('%.9g', seconds)))
  costs[8] = nil
  redis.call('HSET', COSTS, sized, cjson.encode(costs))
end

-- How many other workers were busy while the job was held, on the mean.
local function crowd_of(busy_from, busy_until, took)
  if not busy_from or not busy_until then return 0 end
  return math.max(0, (tonumber(busy_until) - tonumber(busy_from)) / math.max(took, 1e-6) - 1)
end

-- The slope of how much longer jobs take in a crowd than those of their kind and size did alone.
local function learn_crowding(sized, seconds, crowd)
  local costs = costs_of(sized)
  if #costs == 0 then return end
  table.sort(costs)
  local slow = math.max(-0.5, math.min(seconds / costs[math.ceil(#costs / 2)] - 1, 2))
  for field, value in pairs({crowd_slow = crowd * slow, crowd_crowd = crowd * crowd}) do
    local sum = tonumber(redis.call('HGET', BUSY, field) or 0)
    redis.call('HSET', BUSY, field, string.format('%.6f', 0.95 * sum + value))
  end
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
local job = redis.call('HMGET', key, 'pace', 'pixels', 'cache', 'fingerprint', 'started_at',
  'busy_from', 'busy_until', 'created_at', 'finished_at')
local took = tonumber(now()) - tonumber(job[5])
count_time('whole', tonumber(job[9]) - tonumber(job[8]))
if ARGV[7] ~= '' then
  local pixels, seconds, steps = tonumber(job[2]), tonumber(ARGV[7]), tonumber(ARGV[8])
  local crowd = crowd_of(job[6], job[7], took)
  learn_crowding(job[1], seconds, crowd)
  local alone = seconds / (1 + crowding() * crowd)
  learn_cost(job[1], alone)
  learn_line(job[1]:match('^[^@]*'), pixels, alone, steps)
end
if job[3] ~= '' and job[4] then
  redis.call('SET', KEY.cache .. job[3] .. ':' .. job[4], id, 'EX', RETENTION_S)
end
local mean = tonumber(redis.call('HGET', PACE, 'seconds') or took)
redis.call('HSET', PACE, 'seconds', string.format('%.3f', 0.8 * mean + 0.2 * took))
redis.call('EXPIRE', PACE, RETENTION_S)
return 1
