-- Restores a claim that a server forgot which came back without its last second.
-- KEYS  1 log   2 record
-- ARGV  1 attempt   2 number   3 TTL in ms   4 names and values of the record's fields, in turn
-- Result: 1 restored - 0 it stands, a later attempt owns the job, or the job is not known at all
local record = redis.call('HMGET', KEYS[2], 'status', 'attempt')
local status = record[1]
if not status or status == 'done' or status == 'failed' or status == 'cancelled' or tonumber(record[2] or 0) >= tonumber(ARGV[1]) then
  return 0
end
local fence = string.format('%.0f-18446744073709551615', tonumber(ARGV[1]) - 1)
if not redis.pcall('XADD', KEYS[1], fence, 'f', '')['err'] then
  redis.call('XDEL', KEYS[1], fence)
end
redis.call('HSET', KEYS[2], 'status', 'running', 'attempt', ARGV[1], 'number', ARGV[2], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
