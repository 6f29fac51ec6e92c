-- Adds messages to a conversation and trims it, in one step.
--
-- KEYS  index, bodies, deletion, coming, wholes, replaced, memory, line, opener, listed
--       (one slot)
-- ARGV  life_s, most messages, most bodies, time of the asking in ms, ids of what goes,
--       then id, index entry, body (what a model is given), whole for each message
--
-- An entry is id, role, ms, length, the id that it replies to and, of an answer, the attempt that
-- gave it. What is there already is not added again, though an answer gives way to that of a
-- later attempt, and a question without its run's token to the same with it; a question that is
-- there no more is known by its answer. What was asked before the conversation was deleted is
-- not added at all, unless it has been asked again since. What goes is never added again: its
-- run may end later than that.
-- Gives the bytes that the conversation takes, 0 where it has been deleted, or is empty.

local index, bodies, wholes = KEYS[1], KEYS[2], KEYS[5]

local function answering(entry)
  return entry:match('^%S+ assistant ') and (tonumber(entry:match('%S+$')) or 0)
end

-- A question as a runner adds it, which has no token of its run's.
local function is_unopened(entry)
  return not answering(entry) and entry:match(' %-$')
end

local entries, places, known
local function look()
  entries, places, known = redis.call('LRANGE', index, 0, -1), {}, {}
  for place, entry in ipairs(entries) do
    local id, reply_to = entry:match('^(%S+) %S+ %S+ %S+ (%S+)')
    places[id] = place
    known[id], known[reply_to] = true, true
  end
end
look()

local deleted = redis.call('GET', KEYS[3])
if deleted and tonumber(ARGV[4]) < tonumber(deleted) then
  local again = false
  for i = 6, #ARGV, 4 do
    again = again or known[ARGV[i]]
  end
  if not again then
    return 0
  end
end

for id in ARGV[5]:gmatch('%S+') do
  if places[id] then
    redis.call('LREM', index, 1, entries[places[id]])
    redis.call('HDEL', bodies, id)
    redis.call('HDEL', wholes, id)
  end
  redis.call('SADD', KEYS[6], id)
  redis.call('EXPIRE', KEYS[6], ARGV[1])
end
if ARGV[5] ~= '' then
  look()
end

local added = false
for i = 6, #ARGV, 4 do
  local id, entry, body, whole = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local place = places[id]
  if redis.call('SISMEMBER', KEYS[6], id) == 1 then
    place = nil
  elseif not known[id] then
    redis.call('RPUSH', index, entry)
    redis.call('HSET', bodies, id, body)
    redis.call('HSET', wholes, id, whole)
    added = true
  elseif place and answering(entry) and answering(entry) > (answering(entries[place]) or 0) then
    redis.call('LSET', index, place - 1, entry)
    redis.call('HSET', bodies, id, body)
    redis.call('HSET', wholes, id, whole)
  elseif place and is_unopened(entries[place]) and not is_unopened(entry) then
    -- A run that ends at once is here before whoever has asked.
    redis.call('LSET', index, place - 1, entry)
    added = true
  end
end
entries = redis.call('LRANGE', index, 0, -1)
if #entries == 0 then
  return 0
end
local most, most_bodies = tonumber(ARGV[2]), tonumber(ARGV[3])
local first = math.max(1, #entries - most + 1)
-- What tools gave goes with the message that called them; the last waits for its answer.
while first > 1 and first < #entries and entries[first]:match('^%S+ tool ') do
  first = first + 1
end
for i = 1, math.max(first - 1, #entries - most_bodies) do
  local id = entries[i]:match('^%S+')
  redis.call('HDEL', bodies, id)
  if i < first then
    redis.call('HDEL', wholes, id)
  end
end
redis.call('LTRIM', index, first - 1, -1)
if added then
  -- Told as a state of a run that never began. Whoever may not publish is heard at the next sweep.
  local channel = index:gsub('conversation:(%b{}):index$', 'run:%1')
  redis.pcall('SPUBLISH', channel, '0-s-1 {"type":"conversation"}')
end
redis.call('EXPIRE', index, ARGV[1])
redis.call('EXPIRE', bodies, ARGV[1])
redis.call('EXPIRE', wholes, ARGV[1])
redis.call('EXPIRE', KEYS[9], ARGV[1])
return taken()
