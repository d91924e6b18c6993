-- Moves a dead letter's job back to its queue, if the letter still stands there: of several operators one does it.
-- KEYS  1 dead   2 jobs
-- ARGV  1 the letter's id   2 job   3 1 if this is said again, because a reply was lost
-- Result: entry id - '' (there is no such letter any more)
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then
  if ARGV[3] == '1' then -- we may have moved it ourselves: look at the newest entries
    local upto = '+'
    for _ = 1, 100 do -- a few at a time: jobs may be large
      local entries = redis.call('XREVRANGE', KEYS[2], upto, '-', 'COUNT', 10)
      for _, entry in ipairs(entries) do
        if entry[2][2] == ARGV[2] then
          return entry[1]
        end
        upto = '(' .. entry[1]
      end
      if #entries < 10 then
        break
      end
    end
  end
  return ''
end
local entry = redis.call('XADD', KEYS[2], '*', 'job', ARGV[2]) -- first, because the server may be out of memory
redis.call('XDEL', KEYS[1], ARGV[1])
return entry
