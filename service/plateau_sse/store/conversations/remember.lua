-- Keeps what an agent remembers of a conversation, where nobody else has since it was read.
--
-- KEYS  index, bodies, deletion, coming, wholes, replaced, memory, line (one slot)
-- ARGV  life_s, agent, run, revision that was read, time of the asking in ms, value
--
-- Of each agent: v:<agent> its value, r:… the revision of that, o:… the run that has written it,
-- b:… what was there before, until that run's end is settled: an attempt that comes after one
-- that had come as far as this begins with that.
-- Gives the bytes that the conversation takes, 0 where it has been deleted since the asking, -1
-- where somebody else has written.
local agent, run = ARGV[2], ARGV[3]
local memory, v, r, o, b = KEYS[7], 'v:' .. agent, 'r:' .. agent, 'o:' .. agent, 'b:' .. agent

local deleted = redis.call('GET', KEYS[3])
if deleted and tonumber(ARGV[5]) < tonumber(deleted) then
  return 0
end
local found = redis.call('HMGET', memory, r, o, b, v)
local revision, again = tonumber(found[1] or 0), found[2] == run and found[3]
if (again and revision - 1 or revision) ~= tonumber(ARGV[4]) then
  return -1
end
redis.call('HSET', memory, b, again or found[4] or '')
redis.call('HSET', memory, v, ARGV[6])
redis.call('HSET', memory, r, ARGV[4] + 1)
redis.call('HSET', memory, o, run)
redis.call('EXPIRE', memory, ARGV[1])
return taken()
