-- Parks a provider: no worker asks it before an instant. An instant that is known to be later stands.
-- KEYS  1 parked
-- ARGV  1 how long, in ms
-- Result: until when it is parked, in ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local until_ms = math.max(now + ARGV[1], (tonumber(redis.call('GET', KEYS[1]) or 0) or 0))
if until_ms > now then
  redis.call('SET', KEYS[1], string.format('%.0f', until_ms), 'PX', string.format('%.0f', until_ms - now))
end
return until_ms
