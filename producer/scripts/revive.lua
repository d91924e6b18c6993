-- Begins a new life of a job that was buried, under the same id: a fresh log and record, and a fence against whoever
-- still runs the old life.
-- KEYS  1 log   2 record   3 cancel   4 events channel
-- ARGV  1 frame of the queued event   2 TTL in ms   3 queue   4 provider   5 model   6 created_at in ms
--       7 token of this acceptance   8 ms of its dead letter's id   9 number of that id   10 deadline in ms, '' for none
-- Result: 'accepted' (also when this very acceptance is said again) -
--         'unconfirmed' (another caller began it and may have died before it was queued) -
--         'known' (a life of the job is on its way, or one has ended since it was buried)
local CLOCKS_DIFFER = 60000 -- ms by which the clocks of a cluster's nodes may, at the most

local record = redis.call('HMGET', KEYS[2], 'status', 'confirmed', 'acceptance', 'attempt', 'retried', 'finished_at')
local status, attempt = record[1], tonumber(record[4] or 0) or 0
if status == 'queued' and not record[2] then
  local tokens = record[3] or '?'
  if string.find(' ' .. tokens .. ' ', ' ' .. ARGV[7] .. ' ', 1, true) then
    return 'accepted'
  end
  redis.call('HSET', KEYS[2], 'acceptance', tokens .. ' ' .. ARGV[7])
  return 'unconfirmed'
end
if status == 'queued' or status == 'running' or status == 'waiting' then
  return 'known'
end

-- A letter that was read a while ago may have been retried by somebody else, and its new life have ended since: that
-- answer must not be deleted. Nor that of a job which was enqueued anew when the old life's record was gone.
local ms, number = string.match(record[5] or '', '^(%d+)-(%d+)$')
local buried = tonumber(ARGV[8])
if ms and (tonumber(ms) > buried or (tonumber(ms) == buried and tonumber(number) >= tonumber(ARGV[9]))) then
  return 'known'
end
if tonumber(record[6] or 0) > buried + CLOCKS_DIFFER then
  return 'known'
end

local time = redis.call('TIME')
local below = string.format('%.0f', math.max(time[1] * 1000 + math.floor(time[2] / 1000), attempt))
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('XADD', KEYS[1], '0-1', 'f', ARGV[1])
-- Redis now refuses whatever an owner of the old life appends. Claims go above the record's attempt, and the next one
-- may put its own fence at the very end of this attempt: one below leaves it room.
local fence = below .. '-18446744073709551614'
redis.call('XADD', KEYS[1], fence, 'f', '')
redis.call('XDEL', KEYS[1], fence)
redis.call('HSET', KEYS[2], 'status', 'queued', 'queue', ARGV[3], 'provider', ARGV[4], 'model', ARGV[5],
  'created_at', ARGV[6], 'attempt', below, 'number', '0', 'acceptance', ARGV[7],
  'retried', ARGV[8] .. '-' .. ARGV[9])
if ARGV[10] ~= '' then
  redis.call('HSET', KEYS[2], 'deadline', ARGV[10])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', KEYS[4], ARGV[1])
return 'accepted'
