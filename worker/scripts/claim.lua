-- Makes a worker the owner of a job, and raises the fence against every earlier owner, in one step.
-- KEYS  1 log   2 record   3 cancel
-- ARGV  1 entry   2 how often it was handed over   3 turn of the job in it   4 worker   5 TTL in ms   6 queue
--       7 frame of the queued event   8 created_at in ms   9 provider, '' if none can be asked   10 model
--       11 token of this claim   12 retention in ms   13 attempt that this worker has just ended, '' if none
--       14 entry that stands for the job by its record, and is known to be gone, '' if none
-- Result: {'claimed', attempt, number, cancel mark or '', packed errors or '', 0 if this is surely the first attempt,
--         first claim in ms} -
--         {'ended', packed dead letter or ''} - {'elsewhere', entry in which it runs, its queue} - {'elsewhere', '', ''} (it waits
--         in another one) - {'early', due in ms} - {'lost'} (somebody reclaimed the entry since it was handed to this worker)
-- All reads come first: where one of them fails, nothing has been written.
local mark = redis.call('GET', KEYS[3])
local status, attempt, due = unpack(redis.call('HMGET', KEYS[2], 'status', 'attempt', 'due'))
local entry, claim, number, deliveries, turn, errors, dead, worker, started_at, queue
local is_new = status == 'queued' and attempt == '0' -- nobody has claimed it yet
if not is_new then -- a new one has nothing of this, and a field that is not there takes the longest to look for
  entry, claim, number, deliveries, turn, errors, dead, worker, started_at, queue = unpack(redis.call('HMGET', KEYS[2],
    'entry', 'claim', 'number', 'deliveries', 'turn', 'errors', 'dead', 'worker', 'started_at', 'queue'))
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local same_entry = entry == ARGV[1]
if status == 'done' or status == 'failed' or status == 'cancelled' then
  -- One that was cancelled while it waited has its long life only until its entry is met, which is now.
  for _, key in ipairs({KEYS[1], KEYS[2]}) do
    if redis.call('PTTL', key) > tonumber(ARGV[12]) then
      redis.call('PEXPIRE', key, ARGV[12])
    end
  end
  return {'ended', same_entry and dead or ''} -- the letter is for the entry whose attempt failed
end

-- What should be a number and is none raises here, before anything is written: a reply would end at it.
local had_attempts = tonumber(attempt or 0) > 0 and 1 or 0
local count, first_claim = 0 + tonumber(number or 0), 0 + tonumber(started_at or now)
if status == 'running' and claim == ARGV[11] then -- this very claim, said again after its reply was lost
  return {'claimed', attempt, count, mark or '', errors or '', had_attempts, first_claim}
end
-- A server that forgot its last second forgot that it had handed the entry out, and handed it to another worker.
local handed_out_again = same_entry and status == 'running' and ARGV[2] == deliveries and worker ~= ARGV[4]
if attempt ~= ARGV[13] then -- not this worker's own next attempt
  if same_entry and tonumber(ARGV[2]) <= tonumber(deliveries or 0) and not handed_out_again then
    return {'lost'}
  end
  if not same_entry and status == 'running' then
    if entry ~= ARGV[14] then
      return {'elsewhere', entry, queue or ARGV[6]}
    end
  elseif not same_entry and tonumber(ARGV[3]) < tonumber(turn or 0) then
    return {'elsewhere', '', ''}
  end
  if due and tonumber(due) > now then
    return {'early', due}
  end
end

-- The attempt is the server's time, and above all that the log has seen. Its fence is an id just below its first: once
-- that is the log's last id, Redis refuses whatever an earlier owner appends.
local current, is_raised = now, false
if is_new then -- its log ends with an entry, and Redis sets no last id below that
  local fence = string.format('%d-18446744073709551615', now - 1)
  is_raised = not redis.pcall('XSETID', KEYS[1], fence)['err']
end
if not is_raised then -- not a new one; or no log, one that is ahead of the clock, or a server without this command
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  if not last then -- it waited for longer than its keys live: begin them anew
    redis.call('DEL', KEYS[1])
    redis.call('XADD', KEYS[1], '0-1', 'f', ARGV[7])
    redis.call('HSET', KEYS[2], 'created_at', ARGV[8])
    last = {'0-1'}
  end
  current = math.max(now, tonumber(attempt or 0) + 1, tonumber(string.match(last[1], '^%d+')) + 1)
  -- An entry with this id, added and deleted. Redis refuses it where an earlier fence is above it.
  local fence = string.format('%d-18446744073709551615', current - 1)
  redis.call('XADD', KEYS[1], fence, 'f', '')
  redis.call('XDEL', KEYS[1], fence)
end

local text = string.format('%.0f', current)
count = count + (handed_out_again and 0 or 1)
local size = ARGV[9] ~= '' and 24 or 20 -- without provider and model where none can be asked
redis.call('HSET', KEYS[2], unpack({'status', 'running', 'attempt', text, 'number', count, 'entry', ARGV[1],
  'deliveries', ARGV[2], 'turn', ARGV[3], 'worker', ARGV[4], 'queue', ARGV[6], 'claim', ARGV[11],
  'started_at', string.format('%.0f', first_claim), 'provider', ARGV[9], 'model', ARGV[10]}, 1, size))
if due then
  redis.call('HDEL', KEYS[2], 'due')
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return {'claimed', text, count, mark or '', errors or '', had_attempts, first_claim}
