#!lua flags=allow-oom
-- Notes what a conversation takes, and names those that have to go for all to fit.
--
-- KEYS  conversations by the time of their last message, their bytes (one slot)
-- ARGV  conversation, ms of its last message, its bytes (0: forget it), bound in bytes, life in ms
--
-- Gives conversation, ms of its last message, … of the longest idle that are to be deleted, a
-- hundred at most: what is left over then goes with the next message.
local idle, bytes = KEYS[1], KEYS[2]

local function forget(conversation)
  local had = redis.call('HGET', bytes, conversation)
  if had then
    redis.call('HINCRBY', bytes, 'total', -had)
    redis.call('HDEL', bytes, conversation)
  end
  redis.call('ZREM', idle, conversation)
end

local expired = redis.call('ZRANGEBYSCORE', idle, '-inf', ARGV[2] - ARGV[5], 'LIMIT', 0, 100)
for _, conversation in ipairs(expired) do
  forget(conversation)
end
forget(ARGV[1])
if tonumber(ARGV[3]) > 0 then
  redis.call('ZADD', idle, ARGV[2], ARGV[1])
  redis.call('HSET', bytes, ARGV[1], ARGV[3])
  redis.call('HINCRBY', bytes, 'total', ARGV[3])
end
redis.call('PEXPIRE', idle, ARGV[5])
redis.call('PEXPIRE', bytes, ARGV[5])

local over = tonumber(redis.call('HGET', bytes, 'total') or 0) - tonumber(ARGV[4])
local going = {}
if over > 0 then
  local oldest = redis.call('ZRANGE', idle, 0, 99, 'WITHSCORES')
  for i = 1, #oldest, 2 do
    if over <= 0 then
      break
    end
    if oldest[i] ~= ARGV[1] then
      going[#going + 1] = oldest[i]
      going[#going + 1] = oldest[i + 1]
      over = over - (redis.call('HGET', bytes, oldest[i]) or 0)
    end
  end
end
return going
