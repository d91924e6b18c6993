-- Takes back an accepted job that found no room in its queue, so that nothing of it is left.
-- KEYS  1 log   2 record
-- Result: 1 withdrawn - 0 somebody confirmed or claimed it meanwhile
local known = redis.call('HMGET', KEYS[2], 'status', 'confirmed')
if known[1] ~= 'queued' or known[2] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
