-- What a run has written is settled once its end is known: it stays, or what was before comes back.
--
-- KEYS  index, bodies, deletion, coming, wholes, replaced, memory, line (one slot)
-- ARGV  agent, run, 1 where it stays
-- Gives the bytes that the conversation takes, 0 where there is nothing to settle.
local agent, memory = ARGV[1], KEYS[7]
local v, r, o, b = 'v:' .. agent, 'r:' .. agent, 'o:' .. agent, 'b:' .. agent
local found = redis.call('HMGET', memory, o, b)
if found[1] ~= ARGV[2] or not found[2] then
  return 0
end
if ARGV[3] ~= '1' then
  redis.call('HSET', memory, v, found[2])
  redis.call('HINCRBY', memory, r, 1)
end
redis.call('HDEL', memory, b)
if redis.call('HGET', memory, v) == '' then
  redis.call('HDEL', memory, v, r, o)
end
return taken()
