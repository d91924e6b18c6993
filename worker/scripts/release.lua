-- Releases an entry unfinished: it stands at the queue's end again, for any worker to claim.
-- KEYS  1 jobs
-- ARGV  1 group   2 entry   3 job
-- Result: 1 released - 0 it was not pending, so somebody else has settled or released it
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  return 0
end
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[1], '*', 'job', ARGV[3])
return 1
