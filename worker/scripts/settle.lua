-- Settles an entry: acknowledged and deleted in one step.
-- KEYS  1 jobs
-- ARGV  1 group   2 entry
-- Result: 1 settled - 0 it was not pending
local acknowledged = redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
return acknowledged
