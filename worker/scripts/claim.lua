-- Makes a worker the owner of a job, and raises the fence against every earlier owner, in one step.
-- KEYS  1 log   2 record   3 cancel
-- ARGV  1 entry   2 how often it was handed over   3 turn of the job in it   4 worker   5 TTL in ms   6 queue
--       7 frame of the queued event   8 created_at in ms   9 provider, '' if none can be asked   10 model
--       11 token of this claim   12 retention in ms   13 attempt that this worker has just ended, '' if none
--       14 entry that stands for the job by its record, and is known to be gone, '' if none
-- Result: {'claimed', attempt, number, cancel mark or '', packed errors or '', 0 if this is surely the first attempt,
--         first claim in ms} -
--         {'ended', packed dead letter or ''} - {'elsewhere', entry in which it runs, '' if it waits in another one} -
--         {'early', due in ms} - {'lost'} (somebody reclaimed the entry since it was handed to this worker)
-- All reads come first: where one of them fails, nothing has been written.
local mark = redis.call('GET', KEYS[3])
local fields = {'status', 'entry', 'attempt', 'claim', 'number', 'deliveries', 'turn', 'due', 'errors', 'dead',
  'worker', 'started_at'}
local record = {}
for index, value in ipairs(redis.call('HMGET', KEYS[2], unpack(fields))) do
  record[fields[index]] = value or nil
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local status = record.status
local same_entry = record.entry == ARGV[1]
if status == 'done' or status == 'failed' or status == 'cancelled' then
  -- One that was cancelled while it waited has its long life only until its entry is met, which is now.
  for _, key in ipairs({KEYS[1], KEYS[2]}) do
    if redis.call('PTTL', key) > tonumber(ARGV[12]) then
      redis.call('PEXPIRE', key, ARGV[12])
    end
  end
  return {'ended', same_entry and record.dead or ''} -- the letter is for the entry whose attempt failed
end

local function claimed(attempt, number)
  return {'claimed', attempt, number, mark or '', record.errors or '', tonumber(record.attempt or 0) > 0 and 1 or 0,
    tonumber(record.started_at or now)}
end

if status == 'running' and record.claim == ARGV[11] then -- this very claim, said again after its reply was lost
  return claimed(record.attempt, tonumber(record.number))
end
-- A server that forgot its last second forgot that it had handed the entry out, and handed it to another worker.
local handed_out_again = same_entry and status == 'running' and ARGV[2] == record.deliveries
  and record.worker ~= ARGV[4]
if record.attempt ~= ARGV[13] then -- not this worker's own next attempt
  if same_entry and tonumber(ARGV[2]) <= tonumber(record.deliveries or 0) and not handed_out_again then
    return {'lost'}
  end
  if not same_entry and status == 'running' then
    if record.entry ~= ARGV[14] then
      return {'elsewhere', record.entry}
    end
  elseif not same_entry and tonumber(ARGV[3]) < tonumber(record.turn or 0) then
    return {'elsewhere', ''}
  end
  if tonumber(record.due or 0) > now then
    return {'early', record.due}
  end
end

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then -- it waited for longer than its keys live: begin them anew
  redis.call('DEL', KEYS[1])
  redis.call('XADD', KEYS[1], '0-1', 'f', ARGV[7])
  redis.call('HSET', KEYS[2], 'created_at', ARGV[8])
  last = {'0-1'}
end

-- The attempt is the server's time, and above all that the log has seen.
local attempt = math.max(now, tonumber(record.attempt or 0) + 1, tonumber(string.match(last[1], '^%d+')) + 1)
local text = string.format('%.0f', attempt)

-- An id just below this attempt's first, added and deleted: Redis now refuses whatever an earlier owner appends.
local fence = string.format('%.0f-18446744073709551615', attempt - 1)
redis.call('XADD', KEYS[1], fence, 'f', '')
redis.call('XDEL', KEYS[1], fence)

local number = redis.call('HINCRBY', KEYS[2], 'number', handed_out_again and 0 or 1)
redis.call('HSET', KEYS[2], 'status', 'running', 'attempt', text, 'entry', ARGV[1], 'deliveries', ARGV[2],
  'turn', ARGV[3], 'worker', ARGV[4], 'queue', ARGV[6], 'claim', ARGV[11])
redis.call('HDEL', KEYS[2], 'due')
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[2], 'provider', ARGV[9], 'model', ARGV[10])
end
redis.call('HSETNX', KEYS[2], 'started_at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return claimed(text, number)
