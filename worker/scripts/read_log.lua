-- Reads a page of a job's log, from the server that is written to: a claim that succeeded there, and a log of another one
-- that is behind, would not belong together.
-- KEYS  1 log
-- ARGV  1 id above which to begin   2 entries, at most
-- Result: the entries
return redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
