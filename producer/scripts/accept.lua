-- Accepts a job under its id: writes its first event and its record. The first caller wins.
-- KEYS  1 log   2 record   3 cancel   4 events channel
-- ARGV  1 frame of the queued event   2 TTL in ms   3 queue   4 provider   5 model   6 created_at in ms
--       7 token of this acceptance   8 delay in ms from now, 0 for none   9 instant at which it is due, 0 for none
--       10 deadline in ms, '' for none   11 1 if others may know the id, and so may run an earlier life of it
-- Result: 'accepted' (also when this very acceptance is said again) -
--         'known' (a job of this id is on its way or has ended) -
--         'unconfirmed' (another caller accepted it and may have died before it was queued)
-- `acceptance` holds the tokens of all callers that are between accepting and confirming: the job may be withdrawn
-- only by the last of them. '?' stands for one that left no token, and is never taken out.
local known = redis.call('HMGET', KEYS[2], 'status', 'confirmed', 'acceptance')
if known[1] then
  if known[1] ~= 'queued' or known[2] then
    return 'known'
  end
  local tokens = known[3] or '?'
  if string.find(' ' .. tokens .. ' ', ' ' .. ARGV[7] .. ' ', 1, true) then
    return 'accepted'
  end
  redis.call('HSET', KEYS[2], 'acceptance', tokens .. ' ' .. ARGV[7])
  return 'unconfirmed'
end
redis.call('DEL', KEYS[1], KEYS[3]) -- what an earlier life of this id left behind
redis.call('XADD', KEYS[1], '0-1', 'f', ARGV[1])
local attempt = '0'
if ARGV[11] == '1' then
  -- Who still runs an earlier life, whose keys are gone, is kept from writing into this one before it is claimed. The
  -- attempts to come are above the record's.
  local time = redis.call('TIME')
  attempt = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) - 1)
  local fence = attempt .. '-18446744073709551614' -- the claim's own may be in the same ms
  if redis.pcall('XSETID', KEYS[1], fence)['err'] then -- a server without this command
    redis.call('XADD', KEYS[1], fence, 'f', '')
    redis.call('XDEL', KEYS[1], fence)
  end
end
redis.call('HSET', KEYS[2], 'status', 'queued', 'attempt', attempt, 'number', '0', 'queue', ARGV[3],
  'provider', ARGV[4], 'model', ARGV[5], 'created_at', ARGV[6], 'acceptance', ARGV[7])
if ARGV[10] ~= '' then
  redis.call('HSET', KEYS[2], 'deadline', ARGV[10])
end
if ARGV[8] ~= '0' or ARGV[9] ~= '0' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local due = math.max(now + tonumber(ARGV[8]), tonumber(ARGV[9]))
  if due > now then
    redis.call('HSET', KEYS[2], 'due', string.format('%.0f', due))
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', KEYS[4], ARGV[1])
return 'accepted'
