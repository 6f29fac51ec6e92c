#!lua flags=allow-oom
-- Adds messages to a conversation and trims it, in one step.
--
-- KEYS  index, bodies, deletion (one slot)
-- ARGV  life_s, most messages, most bodies, time of the asking in ms,
--       then id, index entry, body for each message
--
-- An entry begins with its message's id; one that is there already is not added again. What was
-- asked before the conversation was deleted is not added at all, unless it has been asked again
-- since.
-- Gives the bytes that the conversation takes, 0 where it has been deleted.

-- What MEMORY USAGE leaves out: the places in the books, in the key table and among the keys
-- that expire. Measured 450 bytes on Redis 7.0, 244 on Valkey 9.1.
local BESIDES = 450

local index, bodies = KEYS[1], KEYS[2]

local known = {}
for _, entry in ipairs(redis.call('LRANGE', index, 0, -1)) do
  known[entry:match('^%S+')] = true
end

local deleted = redis.call('GET', KEYS[3])
if deleted and tonumber(ARGV[4]) < tonumber(deleted) then
  local again = false
  for i = 5, #ARGV, 3 do
    again = again or known[ARGV[i]]
  end
  if not again then
    return 0
  end
end

for i = 5, #ARGV, 3 do
  if not known[ARGV[i]] then
    redis.call('RPUSH', index, ARGV[i + 1])
    redis.call('HSET', bodies, ARGV[i], ARGV[i + 2])
  end
end
local entries = redis.call('LRANGE', index, 0, -1)
local most, most_bodies = tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 1, #entries - math.min(most, most_bodies) do
  redis.call('HDEL', bodies, entries[i]:match('^%S+'))
end
redis.call('LTRIM', index, -most, -1)
redis.call('EXPIRE', index, ARGV[1])
redis.call('EXPIRE', bodies, ARGV[1])
return BESIDES + redis.call('MEMORY', 'USAGE', index) + (redis.call('MEMORY', 'USAGE', bodies) or 0)
