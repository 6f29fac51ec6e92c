-- How much there is of each.
--
-- ARGV  ms after which a runner is dead
-- Gives {runs that wait, runs that are held, runners alive, ms that the first has waited, of those
-- that wait the ones that somebody had}.
local first = redis.call('ZRANGE', since, 0, 0, 'WITHSCORES')[2]
return {
  redis.call('ZCARD', since), redis.call('ZCARD', held),
  redis.call('ZCOUNT', runners, now - ARGV[1], '+inf'),
  first and math.max(0, now - first) or 0, redis.call('ZCARD', back),
}
