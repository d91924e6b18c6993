-- Removes the consumers that have been silent for long and hold nothing.
-- KEYS  1 jobs
-- ARGV  1 group   2 how long, in ms
-- Result: the names of those that it removed
local removed = {}
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers['err'] then -- there is no group
  return removed
end
for _, fields in ipairs(consumers) do
  local consumer = {}
  for index = 1, #fields, 2 do
    consumer[fields[index]] = fields[index + 1]
  end
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    removed[#removed + 1] = consumer.name
  end
end
return removed
