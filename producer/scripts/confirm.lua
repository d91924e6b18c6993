-- Confirms that an accepted job is in its queue: from now on it may wait there for long.
-- A job that was claimed meanwhile has its lifetime from the claim.
-- KEYS  1 log   2 record
-- ARGV  1 TTL in ms
-- Result: 1 confirmed - 0 it is no longer waiting to be claimed - -1 its keys are gone
local status = redis.call('HGET', KEYS[2], 'status')
if status ~= 'queued' then
  return status and 0 or -1
end
redis.call('HSET', KEYS[2], 'confirmed', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1
