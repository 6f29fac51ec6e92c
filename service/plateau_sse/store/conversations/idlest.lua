#!lua flags=allow-oom
-- Notes what a conversation takes, and names those that have to go for all to fit.
--
-- KEYS  conversations by the time of their last message, their bytes, their owners, owners by
--       their bytes, and conversations by owner and time (one slot)
-- ARGV  conversation, ms of its last message, its bytes (0: forget it), bound in bytes, life in ms,
--       its owner
--
-- Who has most gives way first, and of that owner what is idle for longest: who fills the store
-- with conversations of its own loses those, and nobody else's. One that a release before has
-- noted is of the owner '-'.
-- Gives conversation, ms of its last message, … of those that are to be deleted, a hundred at
-- most: what is left over then goes with the next message.
local idle, bytes, whose, owners, by = unpack(KEYS)
local MOST, TOP = 100, 5

local function member(owner, ms, conversation)
  return string.format('%s:%015d:%s', owner, ms, conversation)
end

local function forget(conversation)
  local had = redis.call('HGET', bytes, conversation)
  local owner = redis.call('HGET', whose, conversation)
  if had then
    redis.call('HINCRBY', bytes, 'total', -had)
    redis.call('HDEL', bytes, conversation)
  end
  if owner then
    local ms = redis.call('ZSCORE', idle, conversation)
    if ms then
      redis.call('ZREM', by, member(owner, ms, conversation))
    end
    if had and tonumber(redis.call('ZINCRBY', owners, -had, owner)) <= 0 then
      redis.call('ZREM', owners, owner)
    end
    redis.call('HDEL', whose, conversation)
  end
  redis.call('ZREM', idle, conversation)
end

local expired = redis.call('ZRANGEBYSCORE', idle, '-inf', ARGV[2] - ARGV[5], 'LIMIT', 0, 100)
for _, conversation in ipairs(expired) do
  forget(conversation)
end
local owner = ARGV[6] ~= '' and ARGV[6] or redis.call('HGET', whose, ARGV[1]) or '-'
forget(ARGV[1])
if tonumber(ARGV[3]) > 0 then
  redis.call('ZADD', idle, ARGV[2], ARGV[1])
  redis.call('HSET', bytes, ARGV[1], ARGV[3])
  redis.call('HINCRBY', bytes, 'total', ARGV[3])
  redis.call('HSET', whose, ARGV[1], owner)
  redis.call('ZINCRBY', owners, ARGV[3], owner)
  redis.call('ZADD', by, 0, member(owner, ARGV[2], ARGV[1]))
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[5])
end

local over = tonumber(redis.call('HGET', bytes, 'total') or 0) - tonumber(ARGV[4])
local going = {}
local function leave(conversation, ms)
  going[#going + 1] = conversation
  going[#going + 1] = ms
  local size = tonumber(redis.call('HGET', bytes, conversation) or 0)
  over = over - size
  return size
end

if over > 0 then
  local heaviest = {}
  local found = redis.call('ZREVRANGE', owners, 0, TOP - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local of = '[' .. found[i] .. ':'
    local rows = redis.call('ZRANGEBYLEX', by, of, of .. '\255', 'LIMIT', 0, MOST + 1)
    heaviest[#heaviest + 1] = { size = tonumber(found[i + 1]), rows = rows, at = 1 }
  end
  while over > 0 and #going < 2 * MOST do
    local first
    for _, one in ipairs(heaviest) do
      if one.rows[one.at] and (not first or one.size > first.size) then
        first = one
      end
    end
    if not first then
      break
    end
    local ms, conversation = first.rows[first.at]:match(':(%d+):([^:]+)$')
    first.at = first.at + 1
    if conversation ~= ARGV[1] then
      first.size = first.size - leave(conversation, tonumber(ms))
    end
  end
end
if over > 0 and #going < 2 * MOST then
  -- Of releases before, whose owners nobody has noted.
  local oldest = redis.call('ZRANGE', idle, 0, MOST - 1, 'WITHSCORES')
  for i = 1, #oldest, 2 do
    if over <= 0 then
      break
    end
    if oldest[i] ~= ARGV[1] and not redis.call('HGET', whose, oldest[i]) then
      leave(oldest[i], oldest[i + 1])
    end
  end
end
return going
