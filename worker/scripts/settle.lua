-- Settles an entry: acknowledged and deleted in one step, by the consumer that holds it.
-- KEYS  1 jobs
-- ARGV  1 group   2 consumer   3 entry
-- Result: 1 settled - 0 this consumer does not hold it (any more)
local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if held['err'] or #held == 0 then -- an error: the group is gone, and with it all that was held
  return 0
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
return 1
