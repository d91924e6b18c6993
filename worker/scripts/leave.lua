-- Removes a consumer that goes, unless it still holds entries: deleting it would make them nobody's.
-- KEYS  1 jobs
-- ARGV  1 group   2 consumer
-- Result: 1 removed - 0 it holds entries
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then
  return 0
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
