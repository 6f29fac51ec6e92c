-- Puts a run into its line, if somebody is there to take runs and not too many wait for the
-- first time. One that waits or is held already stays where it is.
--
-- ARGV  run, what its line is called, owner, most that may wait, ms after which a runner is dead;
--       s for which it is known that owners share the service, 0 where there is only one
-- Gives ok, full or no_runner.
local run, name, owner = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HEXISTS', places, run) == 1 then
  return 'ok'
end
if redis.call('ZCOUNT', runners, now - ARGV[5], '+inf') == 0 then
  return 'no_runner'
end
-- What a dead runner had is no reason to turn others away.
if redis.call('ZCARD', since) - redis.call('ZCARD', back) >= tonumber(ARGV[4]) then
  return 'full'
end
local mine = tonumber(redis.call('GET', turn) or 0)
local last = redis.call('ZSCORE', turns, owner)
if last then
  mine = math.max(mine, last + 1)
end
redis.call('ZADD', turns, mine, owner)
local shares = ARGV[6] ~= '0'
if shares then
  redis.call('SET', shared, '', 'EX', ARGV[6])
end
stand(line(1), name, run, mine, shares and owner)
wait(run, now)
write(run, 'n', '-', owner, name)
ring()
return 'ok'
