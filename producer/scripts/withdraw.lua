-- Takes back an accepted job that found no room in its queue, so that nothing of it is left.
-- KEYS  1 log   2 record
-- ARGV  1 token of the acceptance
-- Result: 1 withdrawn - 0 it is on its way: confirmed or claimed - -1 somebody else accepted it meanwhile
local known = redis.call('HMGET', KEYS[2], 'status', 'confirmed', 'acceptance')
if known[3] ~= ARGV[1] then
  return -1
end
if known[1] ~= 'queued' or known[2] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
