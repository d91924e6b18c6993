-- Tells until when a provider is parked.
-- KEYS  1 parked
-- Result: the instant in ms, or 0
return (tonumber(redis.call('GET', KEYS[1]) or 0) or 0)
