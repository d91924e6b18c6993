-- Accepts a job under its id: writes its first event and its record. The first caller wins.
-- KEYS  1 log   2 record   3 cancel   4 events channel
-- ARGV  1 frame of the queued event   2 TTL in ms   3 queue   4 provider   5 model   6 created_at in ms
--       7 token of this acceptance
-- Result: 'accepted' (also when this very acceptance is said again) -
--         'known' (a job of this id is on its way or has ended) -
--         'unconfirmed' (another caller accepted it and may have died before it was queued)
local known = redis.call('HMGET', KEYS[2], 'status', 'confirmed', 'acceptance')
if known[1] then
  if known[1] ~= 'queued' or known[2] then
    return 'known'
  end
  if known[3] == ARGV[7] then
    return 'accepted'
  end
  redis.call('HSET', KEYS[2], 'acceptance', ARGV[7]) -- so that the other caller cannot withdraw it any more
  return 'unconfirmed'
end
redis.call('DEL', KEYS[1], KEYS[3]) -- what an earlier life of this id left behind
redis.call('XADD', KEYS[1], '0-1', 'f', ARGV[1])
redis.call('HSET', KEYS[2], 'status', 'queued', 'queue', ARGV[3], 'provider', ARGV[4], 'model', ARGV[5],
  'created_at', ARGV[6], 'attempt', '0', 'number', '0', 'acceptance', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', KEYS[4], ARGV[1])
return 'accepted'
