-- Counts the entries of a queue at one moment.
-- KEYS  1 jobs
-- ARGV  1 group   2 consumer that stands for nobody: what it holds was released, and waits to be claimed
-- Result: {waiting, in flight, instant in ms at which the oldest was queued, '' for none}
local entries = redis.call('XLEN', KEYS[1])
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local held = redis.pcall('XPENDING', KEYS[1], ARGV[1])
local in_flight = 0
if not held['err'] then -- an error: no worker has come yet, so there is no group
  for _, consumer in ipairs(held[4] or {}) do
    if consumer[1] ~= ARGV[2] then
      in_flight = in_flight + tonumber(consumer[2])
    end
  end
end
-- A worker may hold an entry that somebody has deleted.
return {math.max(0, entries - in_flight), in_flight, oldest and string.match(oldest[1], '^%d+') or ''}
