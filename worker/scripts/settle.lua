-- Settles entries: those that the consumer holds are acknowledged and deleted in one step.
-- KEYS  1 jobs
-- ARGV  1 group   2 consumer   3 entries, one after the other
-- Result: how many were settled; the others this consumer does not hold (any more), and they stay
local held = {}
for index = 3, #ARGV do
  local found = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[index], ARGV[index], 1, ARGV[2])
  if found['err'] then -- the group is gone, and with it all that was held
    return 0
  end
  if #found == 1 then
    held[#held + 1] = ARGV[index]
  end
end
if #held > 0 then
  redis.call('XACK', KEYS[1], ARGV[1], unpack(held))
  redis.call('XDEL', KEYS[1], unpack(held))
end
return #held
