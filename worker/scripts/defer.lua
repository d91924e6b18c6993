-- Defers a job: its entry leaves the queue, and its bytes wait in `later` until they are due.
-- KEYS  1 jobs   2 later   3 control channel
-- ARGV  1 group   2 consumer   3 entry   4 due in ms   5 job   6 hint for the channel
-- Result: 1 deferred - 0 this consumer does not hold it (any more)
local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if held['err'] or #held == 0 then -- an error: the group is gone, and with it all that was held
  return 0
end
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[5])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
if redis.call('ZRANGE', KEYS[2], 0, 0)[1] == ARGV[5] then -- due before all others: workers may sleep for too long
  redis.call('PUBLISH', KEYS[3], ARGV[6])
end
return 1
