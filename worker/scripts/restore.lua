-- Restores a claim that a server forgot which came back without its last second.
-- KEYS  1 log   2 record
-- ARGV  1 entry   2 how often it was handed over   3 turn   4 worker   5 TTL in ms   6 queue
--       7 -   8 -   9 provider   10 model   11 token of the claim   12 -   13 -   14 -
--       15 attempt   16 number
--       The first 14 are those of claim.lua, of which not all are needed, and the others what it gave.
-- Result: 1 restored - 0 it stands, a later attempt owns the job, or the job is not known at all
local attempt = ARGV[15]
local record = redis.call('HMGET', KEYS[2], 'status', 'attempt')
local status = record[1]
if not status or status == 'done' or status == 'failed' or status == 'cancelled' or tonumber(record[2] or 0) >= tonumber(attempt) then
  return 0
end
local fence = string.format('%.0f-18446744073709551615', tonumber(attempt) - 1)
if not redis.pcall('XADD', KEYS[1], fence, 'f', '')['err'] then
  redis.call('XDEL', KEYS[1], fence)
end
redis.call('HSET', KEYS[2], 'status', 'running', 'attempt', attempt, 'number', ARGV[16], 'entry', ARGV[1],
  'deliveries', ARGV[2], 'turn', ARGV[3], 'worker', ARGV[4], 'queue', ARGV[6], 'claim', ARGV[11])
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[2], 'provider', ARGV[9], 'model', ARGV[10])
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 1
