-- Renews the leases of entries, as far as the consumer holds them still.
-- KEYS  1 jobs
-- ARGV  1 group   2 consumer   3 entries
-- Result: the entries that it holds no more: settled, or reclaimed by another worker
local lost = {}
for index = 3, #ARGV do
  local id = ARGV[index]
  local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  if held['err'] then -- the group is gone, and with it all that was held
    lost[#lost + 1] = id
  elseif #held == 0 and #redis.call('XRANGE', KEYS[1], id, id) == 1 then
    -- A server that lost its last second, or whose group was made anew, does not know that it handed this one out.
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'FORCE', 'JUSTID')
  elseif #held == 0 or held[1][2] ~= ARGV[2] then
    lost[#lost + 1] = id
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
  end
end
return lost
