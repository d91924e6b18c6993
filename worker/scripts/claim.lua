-- Makes a worker the owner of a job, and raises the fence against every earlier owner, in one step.
-- KEYS  1 log   2 record   3 cancel
-- ARGV  1 entry   2 worker   3 TTL in ms   4 queue   5 frame of the queued event   6 created_at in ms
--       7 provider, '' if none can be asked   8 model   9 token of this claim   10 retention in ms
-- Result: {'claimed', attempt, number, cancel mark or ''} - {'ended'} - {'elsewhere'} (another entry runs this job)
-- All reads come first: where one of them fails, nothing has been written.
local mark = redis.call('GET', KEYS[3])
local record = redis.call('HMGET', KEYS[2], 'status', 'entry', 'attempt', 'claim', 'number')
local status, entry = record[1], record[2]
if status == 'done' or status == 'failed' or status == 'cancelled' then
  -- One that was cancelled while it waited has its long life only until its entry is met, which is now.
  for _, key in ipairs({KEYS[1], KEYS[2]}) do
    if redis.call('PTTL', key) > tonumber(ARGV[10]) then
      redis.call('PEXPIRE', key, ARGV[10])
    end
  end
  return {'ended'}
end
if status == 'running' and entry ~= ARGV[1] then
  return {'elsewhere'}
end
if status == 'running' and record[4] == ARGV[9] then -- this very claim, said again after its reply was lost
  return {'claimed', record[3], tonumber(record[5]), mark or ''}
end

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then -- it waited for longer than its keys live: begin them anew
  redis.call('DEL', KEYS[1])
  redis.call('XADD', KEYS[1], '0-1', 'f', ARGV[5])
  redis.call('HSET', KEYS[2], 'created_at', ARGV[6])
  last = {'0-1'}
end

-- The attempt is the server's time, and above all that the log has seen.
local time = redis.call('TIME')
local attempt = math.max(time[1] * 1000 + math.floor(time[2] / 1000),
  tonumber(record[3] or 0) + 1, tonumber(string.match(last[1], '^%d+')) + 1)
local text = string.format('%.0f', attempt)

-- An id just below this attempt's first, added and deleted: Redis now refuses whatever an earlier owner appends.
local fence = string.format('%.0f-18446744073709551615', attempt - 1)
redis.call('XADD', KEYS[1], fence, 'f', '')
redis.call('XDEL', KEYS[1], fence)

local number = redis.call('HINCRBY', KEYS[2], 'number', 1)
redis.call('HSET', KEYS[2], 'status', 'running', 'attempt', text, 'entry', ARGV[1], 'worker', ARGV[2],
  'queue', ARGV[4], 'claim', ARGV[9])
if ARGV[7] ~= '' then
  redis.call('HSET', KEYS[2], 'provider', ARGV[7], 'model', ARGV[8])
end
redis.call('HSETNX', KEYS[2], 'started_at', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {'claimed', text, number, mark or ''}
