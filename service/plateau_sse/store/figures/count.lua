#!lua flags=allow-oom
-- Adds a batch of counts to a host's counters, once, however often it is sent.
--
-- KEYS  counters, stamps: each row's latest (one slot)
-- ARGV  row, stamp, life_s, most rows, most fields, then name, by pairs
-- Gives 1, or 0 where it has been added before.
local latest = redis.call('ZSCORE', KEYS[2], ARGV[1])
if latest and tonumber(latest) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[4])
for i = 6, #ARGV, 2 do
  local name = ARGV[i]
  -- What is counted of an agent is `agent:<name>:<what>`, and names are anybody's.
  local what = string.match(name, '^agent:.*:([a-z_]+)$')
  if what and redis.call('HEXISTS', KEYS[1], name) == 0
      and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then
    name = 'agent:other:' .. what
  end
  redis.call('HINCRBY', KEYS[1], name, ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
