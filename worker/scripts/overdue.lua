-- Tells whether there are entries whose lease is over.
-- KEYS  1 jobs
-- ARGV  1 group   2 lease in ms
-- Result: 1 there are - 0 there are none
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[2], '-', '+', 1)
return pending['err'] and 0 or #pending
