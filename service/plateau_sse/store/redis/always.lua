#!lua flags=allow-oom
-- One command on one key, which then has that life: also when memory is full, for what is small,
-- bounded, and needed by whoever wants to know why it is full.
--
-- KEYS  the key      ARGV  life_s, the command, what follows the key
local reply = redis.call(ARGV[2], KEYS[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return reply
