-- Ends an attempt: appends its last frame, writes the record and publishes, if the attempt still owns the job.
-- KEYS  1 log   2 record   3 cancel   4 events channel
-- ARGV  1 attempt   2 id of the frame's last event   3 frame   4 status to come ('done', 'failed', 'cancelled',
--       or 'waiting': the job goes on later)   5 TTL in ms from now on   6 1 if this attempt is not to be counted
--       7 when a waiting job is due, in ms, else ''   8 the job's last errors, packed; '' leaves them as they are
--       9 dead letter to be buried, packed; '' if none
-- Result: 'written' - 'repeated' (a reply was lost) - 'lost' (a later attempt owns the job) - 'gone' (no log) -
--         {'cancel', reason} (a cancel was promised meanwhile; nothing was written)
local record = redis.call('HMGET', KEYS[2], 'attempt', 'status')
if record[1] ~= ARGV[1] then
  return record[1] and 'lost' or 'gone'
end
if record[2] ~= 'running' then
  return #redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2]) == 1 and 'repeated' or 'lost'
end
local mark = redis.call('GET', KEYS[3])
if mark and ARGV[4] ~= 'cancelled' then
  return {'cancel', mark}
end
local added = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', ARGV[2], 'f', ARGV[3])
if added == false then
  return 'gone'
end
if type(added) == 'table' and added['err'] then -- tostring: fakeredis hands over an object
  if string.find(tostring(added['err']), 'equal or smaller', 1, true) then
    return 'lost'
  end
  return redis.error_reply(tostring(added['err']))
end
if ARGV[4] == 'waiting' then
  redis.call('HSET', KEYS[2], 'status', 'waiting')
else
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('HSET', KEYS[2], 'status', ARGV[4], 'finished_at', string.format('%.0f', now))
  if mark then
    redis.call('DEL', KEYS[3])
  end
end
if ARGV[7] ~= '' then
  redis.call('HSET', KEYS[2], 'due', ARGV[7])
end
if ARGV[8] ~= '' then
  redis.call('HSET', KEYS[2], 'errors', ARGV[8])
end
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[2], 'dead', ARGV[9])
end
if ARGV[6] == '1' then
  redis.call('HINCRBY', KEYS[2], 'number', -1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('PUBLISH', KEYS[4], ARGV[3])
return 'written'
