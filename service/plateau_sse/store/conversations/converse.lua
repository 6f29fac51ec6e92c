#!lua flags=allow-oom
-- Adds messages to a conversation and trims it, in one step.
--
-- KEYS  index, bodies, deletion, coming, wholes (one slot)
-- ARGV  life_s, most messages, most bodies, time of the asking in ms,
--       then id, index entry, body (what a model is given), whole for each message
--
-- An entry is id, role, ms, length, the id that it replies to and, of an answer, the attempt that
-- gave it. What is there already is not added again, though an answer gives way to that of a
-- later attempt; a question that is there no more is known by its answer. What was asked before
-- the conversation was deleted is not added at all, unless it has been asked again since.
-- Gives the bytes that the conversation takes, 0 where it has been deleted.

-- What MEMORY USAGE leaves out: the places in the books, in the key table and among the keys
-- that expire. Measured 470 to 530 bytes on Redis 7.0, 250 to 390 on Valkey 9.1.
local BESIDES = 530

local index, bodies, wholes = KEYS[1], KEYS[2], KEYS[5]

local function answering(entry)
  return entry:match('^%S+ assistant ') and (tonumber(entry:match('%S+$')) or 0)
end

local places, known = {}, {}
local entries = redis.call('LRANGE', index, 0, -1)
for place, entry in ipairs(entries) do
  local id, reply_to = entry:match('^(%S+) %S+ %S+ %S+ (%S+)')
  places[id] = place
  known[id], known[reply_to] = true, true
end

local deleted = redis.call('GET', KEYS[3])
if deleted and tonumber(ARGV[4]) < tonumber(deleted) then
  local again = false
  for i = 5, #ARGV, 4 do
    again = again or known[ARGV[i]]
  end
  if not again then
    return 0
  end
end

for i = 5, #ARGV, 4 do
  local id, entry, body, whole = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local place = places[id]
  if not known[id] then
    redis.call('RPUSH', index, entry)
    redis.call('HSET', bodies, id, body)
    redis.call('HSET', wholes, id, whole)
  elseif place and answering(entry) and answering(entry) > (answering(entries[place]) or 0) then
    redis.call('LSET', index, place - 1, entry)
    redis.call('HSET', bodies, id, body)
    redis.call('HSET', wholes, id, whole)
  end
end
entries = redis.call('LRANGE', index, 0, -1)
local most, most_bodies = tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 1, #entries - math.min(most, most_bodies) do
  local id = entries[i]:match('^%S+')
  redis.call('HDEL', bodies, id)
  if i <= #entries - most then
    redis.call('HDEL', wholes, id)
  end
end
redis.call('LTRIM', index, -most, -1)
redis.call('EXPIRE', index, ARGV[1])
redis.call('EXPIRE', bodies, ARGV[1])
redis.call('EXPIRE', wholes, ARGV[1])
local taken = BESIDES + redis.call('MEMORY', 'USAGE', index)
taken = taken + (redis.call('MEMORY', 'USAGE', bodies) or 0)
-- By all of them: they are of any size.
return taken + (redis.call('MEMORY', 'USAGE', wholes, 'SAMPLES', 0) or 0)
