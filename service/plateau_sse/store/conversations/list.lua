-- Puts a conversation in front of those that an owner's user has.
--
-- KEYS  index, bodies, deletion, coming, wholes, replaced, memory, line, opener, listed (one slot)
-- ARGV  conversation's id, ms of the asking, life_s, most
-- Gives the bytes that the list takes where it was not in it, 0 where it was.

local listed = KEYS[10]
local is_new = redis.call('ZADD', listed, ARGV[2], ARGV[1]) == 1
redis.call('ZREMRANGEBYSCORE', listed, '-inf', ARGV[2] - 1000 * ARGV[3])
redis.call('ZREMRANGEBYRANK', listed, 0, -ARGV[4] - 1)
redis.call('EXPIRE', listed, ARGV[3])
return is_new and taken() or 0
