-- Removes a consumer that is gone, unless it still holds entries: deleting it would make them nobody's.
-- KEYS  1 jobs
-- ARGV  1 group   2 consumer
-- Result: 1 removed - 0 it holds entries, or there is no group
local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if held['err'] or #held > 0 then
  return 0
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
