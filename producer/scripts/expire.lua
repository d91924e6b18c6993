-- Ends a job whose deadline has passed, as a failed one, where no worker does: nobody runs it, or who ran it is gone.
-- KEYS  1 log   2 record   3 cancel   4 events channel
-- ARGV  1 attempt for the terminal event   2 frame of that event, its id <attempt>-0   3 attempt of the record that
--       the frame was made for   4 number of that record   5 TTL in ms of a job whose entry is still in the queue:
--       whoever claims that entry must find the record   6 how long after the deadline a worker may still be about
--       to end it, in ms   7 status to come: 'failed', or 'cancelled' for one that carries the mark
-- Result: 'expired' - {'cancel', reason} (somebody cancelled it: so it is to end) -
--         'ended' (it had its terminal event before) - 'running' (its worker will end it) -
--         'early' (it has no deadline, or that is still to come) - 'unknown' -
--         'again' (an attempt was made meanwhile: the event must say so)
local record = redis.call('HMGET', KEYS[2], 'status', 'attempt', 'number', 'deadline')
local status, deadline = record[1], tonumber(record[4] or '')
if not status then
  return 'unknown'
end
if status ~= 'queued' and status ~= 'waiting' and status ~= 'running' then
  return 'ended'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not deadline or now < deadline then
  return 'early'
end
if status == 'running' and now < deadline + ARGV[6] then
  return 'running'
end
if record[2] ~= ARGV[3] or record[3] ~= ARGV[4] then
  return 'again'
end
local mark = redis.call('GET', KEYS[3])
if mark and ARGV[7] ~= 'cancelled' then
  return {'cancel', mark}
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
redis.call('HSET', KEYS[2], 'status', ARGV[7], 'attempt', ARGV[1], 'finished_at', string.format('%.0f', now))
redis.call('DEL', KEYS[3])
for _, key in ipairs({KEYS[1], KEYS[2]}) do
  if redis.call('PTTL', key) < tonumber(ARGV[5]) then -- a delay may have given it longer
    redis.call('PEXPIRE', key, ARGV[5])
  end
end
redis.call('PUBLISH', KEYS[4], ARGV[2])
return 'expired'
