-- Vacates a place among the calls of a provider.
-- KEYS  1 slots
-- ARGV  1 holder
-- Result: 1 vacated - 0 it was not held
return redis.call('ZREM', KEYS[1], ARGV[1])
