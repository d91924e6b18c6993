-- Buries an entry that no worker can do anything with: it leaves the queue and stands in `dead`, with its bytes.
-- KEYS  1 jobs   2 dead
-- ARGV  1 group   2 entry   3 bound of dead   4 reason   5 the entry's bytes   6 worker
-- Result: 1 buried - 0 it was not pending
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  return 0
end
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*',
  'reason', ARGV[4], 'job', ARGV[5], 'entry', ARGV[2], 'worker', ARGV[6])
return 1
