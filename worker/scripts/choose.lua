-- Notes which provider an attempt asks, where it is not the one that its claim named.
-- KEYS  1 record
-- ARGV  1 attempt   2 provider   3 model
-- Result: 1 noted - 0 another attempt owns the job
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'provider', ARGV[2], 'model', ARGV[3])
return 1
