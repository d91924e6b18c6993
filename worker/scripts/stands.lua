-- Tells whether an entry stands in the queue, handed out or not.
-- KEYS  1 jobs
-- ARGV  1 entry
-- Result: 1 it does - 0 it does not
return #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
