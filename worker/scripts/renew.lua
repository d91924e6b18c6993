-- Renews the leases of entries, as far as the consumer holds them still.
-- KEYS  1 jobs
-- ARGV  1 group   2 consumer   3 entries
-- Result: the entries that it holds no more: settled, or reclaimed by another worker
local lost = {}
for index = 3, #ARGV do
  local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[index], ARGV[index], 1, ARGV[2])
  if held['err'] or #held == 0 then -- an error: the group is gone, and with it all that was held
    lost[#lost + 1] = ARGV[index]
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[index], 'JUSTID')
  end
end
return lost
