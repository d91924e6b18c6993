-- Adds a job to its queue, or to the jobs that are not due yet, unless the queue is at its bound.
-- KEYS  1 jobs   2 later   3 control channel
-- ARGV  1 job   2 bound on what waits, runs or is not due yet, 0 for none   3 1 if this is said again, because a
--       reply was lost   4 delay in ms from now, 0 for none   5 instant at which it is due, 0 for none   6 message for
--       the workers that a job is due before all others
-- Result: {'added', entry id} - {'later', when it is due in ms} -
--         {'full', length, ms after which there may be room}
local LOOKED_AT = 1000 -- entries, a few at a time: jobs may be large, and the one that is looked for is likely the newest
local function found()
  local upto = '+'
  for _ = 1, LOOKED_AT / 10 do
    local entries = redis.call('XREVRANGE', KEYS[1], upto, '-', 'COUNT', 10)
    for _, entry in ipairs(entries) do
      if entry[2][2] == ARGV[1] then
        return entry[1]
      end
      upto = '(' .. entry[1]
    end
    if #entries < 10 then
      return nil
    end
  end
end

local bound = tonumber(ARGV[2])
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
if ARGV[3] == '1' then -- it may stand there already: look for it, and at the newest entries, first
  local due = redis.call('ZSCORE', KEYS[2], ARGV[1])
  if due then
    return {'later', string.format('%.0f', tonumber(due))}
  end
  local entry = found()
  if entry then
    return {'added', entry}
  end
end
if bound > 0 and ARGV[3] == '1' and redis.call('XLEN', KEYS[1]) > LOOKED_AT then
  bound = 0 -- it may stand further back: that the queue is full does not mean that it is not there
end
if bound > 0 then
  local queued, delayed = redis.call('XLEN', KEYS[1]), redis.call('ZCARD', KEYS[2])
  if queued + delayed >= bound then
    if queued > 0 then
      -- If the oldest job has been here for a while, about as many as are queued have passed in that time.
      local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]
      return {'full', queued + delayed, math.floor((now() - tonumber(string.match(oldest, '^%d+'))) / queued)}
    end
    return {'full', delayed, math.floor(tonumber(redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2])) - now()}
  end
end
local due = 0
if ARGV[4] ~= '0' or ARGV[5] ~= '0' then -- most jobs are due at once, whatever the time
  local from = now()
  due = math.max(from + tonumber(ARGV[4]), tonumber(ARGV[5]))
  due = due > from and due or 0
end
if due == 0 then
  return {'added', redis.call('XADD', KEYS[1], '*', 'job', ARGV[1])}
end
local score = string.format('%.0f', due)
redis.call('ZADD', KEYS[2], 'NX', score, ARGV[1])
if redis.call('ZRANGE', KEYS[2], 0, 0)[1] == ARGV[1] then
  redis.call('PUBLISH', KEYS[3], ARGV[6])
end
return {'later', score}
