-- Tells until when a provider is parked.
-- KEYS  1 parked
-- Result: the instant in ms, or 0 (also in the very millisecond that it names, in which the key may still be there)
local until_ms = (tonumber(redis.call('GET', KEYS[1]) or 0) or 0)
local time = redis.call('TIME')
return until_ms > time[1] * 1000 + math.floor(time[2] / 1000) and until_ms or 0
