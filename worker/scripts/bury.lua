-- Buries an entry: it leaves the queue and stands in `dead`, with its bytes and its history.
-- KEYS  1 jobs   2 dead   3 counts
-- ARGV  1 group   2 consumer   3 entry   4 bound of dead   5 fields of the dead letter, names and values in turn
-- Result: the number of dead letters that fell over the bound - -1 this consumer does not hold the entry (any more)
local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if held['err'] or #held == 0 then -- an error: the group is gone, and with it all that was held
  return -1
end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 5))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
local dropped = redis.call('XTRIM', KEYS[2], 'MAXLEN', '=', ARGV[4])
if dropped > 0 then
  redis.call('HINCRBY', KEYS[3], 'dead_dropped', dropped)
end
return dropped
