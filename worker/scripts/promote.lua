-- Promotes the jobs that are due: they go from `later` to the queue's end.
-- KEYS  1 later   2 jobs
-- ARGV  1 how many at most
-- Result: ms until the next one is due, 0 if one is already - -1 if none waits
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
for _, job in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.3f', now), 'LIMIT', 0, ARGV[1])) do
  redis.call('XADD', KEYS[2], '*', 'job', job)
  redis.call('ZREM', KEYS[1], job)
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if not first[2] then
  return -1
end
return math.max(0, math.ceil(tonumber(first[2]) - now))
