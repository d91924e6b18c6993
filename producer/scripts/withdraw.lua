-- Withdraws one caller's acceptance of a job that found no room in its queue. With the last acceptance the job
-- goes, so that nothing of it is left; a caller between accepting and confirming keeps it.
-- KEYS  1 log   2 record
-- ARGV  1 token of the acceptance
-- Result: 1 withdrawn: nothing is left - 0 it is on its way: confirmed or claimed - -1 others are still enqueueing it
local known = redis.call('HMGET', KEYS[2], 'status', 'confirmed', 'acceptance')
if not known[1] then -- said again after a lost reply, or its minute was over
  return 1
end
if known[1] ~= 'queued' or known[2] then
  return 0
end
local others = {}
for token in string.gmatch(known[3] or '?', '%S+') do
  if token ~= ARGV[1] then
    others[#others + 1] = token
  end
end
if #others > 0 then
  redis.call('HSET', KEYS[2], 'acceptance', table.concat(others, ' '))
  return -1
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
