-- Releases entries unfinished, at once: they keep their place, and whoever looks for entries to reclaim next gets them.
-- KEYS  1 jobs   2 control channel
-- ARGV  1 group   2 consumer   3 consumer that stands for nobody   4 hint for the channel   5 entry
--       6 for how long it is to look idle, in ms
-- Result: 1 released - 0 this consumer does not hold it (any more)
local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[5], ARGV[5], 1, ARGV[2])
if held['err'] or #held == 0 then -- an error: the group is gone, and with it all that was held
  return 0
end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[5], 'IDLE', ARGV[6], 'JUSTID')
redis.call('PUBLISH', KEYS[2], ARGV[4])
return 1
