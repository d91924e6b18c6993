-- Promotes the jobs that are due: they go from `later` to the queue's end.
-- KEYS  1 later   2 jobs
-- ARGV  1 how many at most   2 how many bytes, about
-- Result: ms until the next one is due, 0 if one is already - -1 if none waits
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local count, bytes = 0, 0
while count < tonumber(ARGV[1]) and bytes < tonumber(ARGV[2]) do
  local job = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.3f', now), 'LIMIT', 0, 1)[1]
  if not job then
    break
  end
  redis.call('XADD', KEYS[2], '*', 'job', job)
  redis.call('ZREM', KEYS[1], job)
  count, bytes = count + 1, bytes + #job
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if not first[2] then
  return -1
end
return math.max(0, math.ceil(tonumber(first[2]) - now))
