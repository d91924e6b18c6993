-- Cancels a job: one that nobody runs ends here and now, a running one is marked for its worker to see.
-- KEYS  1 log   2 record   3 cancel   4 events channel
-- ARGV  1 attempt for the terminal event   2 frame of that event, its id <attempt>-0   3 reason
--       4 TTL in ms of the mark, and of a job whose entry is still in the queue: whoever claims that entry must
--       find the record   5 now in ms
-- Result: 'cancelled' - {'requested', running attempt, queue} - 'finished' - 'unknown' - 'again' (an attempt began meanwhile: take a later id)
local status = redis.call('HGET', KEYS[2], 'status')
if not status then
  return 'unknown'
end
if status == 'cancelled' and redis.call('HGET', KEYS[2], 'attempt') == ARGV[1] then
  return 'cancelled' -- said again after a lost reply
end
if status == 'done' or status == 'failed' or status == 'cancelled' then
  return 'finished'
end
if status == 'running' then
  redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
  local running = redis.call('HMGET', KEYS[2], 'attempt', 'queue')
  return {'requested', running[1], running[2] or ''}
end
local added = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', ARGV[1] .. '-0', 'f', ARGV[2])
if added == false then
  return 'unknown'
end
if type(added) == 'table' and added['err'] then -- tostring: fakeredis hands over an object
  if string.find(tostring(added['err']), 'equal or smaller', 1, true) then
    return 'again'
  end
  return redis.error_reply(tostring(added['err']))
end
redis.call('HSET', KEYS[2], 'status', 'cancelled', 'attempt', ARGV[1], 'finished_at', ARGV[5])
for _, key in ipairs({KEYS[1], KEYS[2]}) do
  if redis.call('PTTL', key) < tonumber(ARGV[4]) then -- a far deadline may have given it longer
    redis.call('PEXPIRE', key, ARGV[4])
  end
end
redis.call('PUBLISH', KEYS[4], ARGV[2])
return 'cancelled'
