-- Appends a frame to a job's log and, only if Redis accepts its id, publishes it.
-- KEYS  1 log   2 events channel
-- ARGV  1 id of the frame's last event   2 frame
-- Result: 'written' - 'repeated' (it stood there already: a reply was lost) - 'lost' (a later attempt owns the job)
--         - 'gone' (the log is no more)
-- What happens for nearly every chunk comes first, and asks for as little as can be.
local added = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', ARGV[1], 'f', ARGV[2])
if type(added) == 'string' then
  redis.call('PUBLISH', KEYS[2], ARGV[2])
  return 'written'
end
if added == false then
  return 'gone'
end
local refusal = tostring(added['err']) -- fakeredis hands over an object
if not string.find(refusal, 'equal or smaller', 1, true) then
  return redis.error_reply(refusal)
end
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 1 then
  return 'repeated'
end
return 'lost'
