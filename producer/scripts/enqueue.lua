-- Adds a job to its queue, unless the queue is at its bound.
-- KEYS  1 jobs
-- ARGV  1 job   2 bound on the queue's length, 0 for none   3 1 if this is said again, because a reply was lost
-- Result: {'added', entry id} - {'full', length, age of the oldest entry in ms}
local bound = tonumber(ARGV[2])
if ARGV[3] == '1' then -- it may stand there already: look at the newest entries first
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1000)) do
    if entry[2][2] == ARGV[1] then
      return {'added', entry[1]}
    end
  end
end
if bound > 0 then
  local length = redis.call('XLEN', KEYS[1])
  if length >= bound then
    local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]
    local now = redis.call('TIME')
    local age = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(string.match(oldest, '^%d+'))
    return {'full', length, age}
  end
end
return {'added', redis.call('XADD', KEYS[1], '*', 'job', ARGV[1])}
