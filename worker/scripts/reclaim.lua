-- Reclaims entries whose lease is over.
-- KEYS  1 jobs
-- ARGV  1 group   2 consumer   3 lease in ms   4 cursor to go on from   5 count
-- Result: {next cursor, {{entry, how often it was handed over, fields}, ...}}
local reply = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5])
local entries = {}
for index, entry in ipairs(reply[2]) do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)
  entries[index] = {entry[1], pending[1][4], entry[2]}
end
return {reply[1], entries}
