#!lua flags=allow-oom
-- Adds a batch of counts to a host's counters, once, however often it is sent.
--
-- KEYS  counters, stamps: each row's latest (one slot)
-- ARGV  row, stamp, life_s, most rows, then name, by pairs
-- Gives 1, or 0 where it has been added before.
local latest = redis.call('ZSCORE', KEYS[2], ARGV[1])
if latest and tonumber(latest) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[4])
for i = 5, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
