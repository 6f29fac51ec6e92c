-- Gives the secret that opens a conversation's events, and makes one where there is none.
--
-- KEYS  index, bodies, deletion, coming, wholes, replaced, memory, line, opener, listed (one slot)
-- ARGV  what to keep where there is none, life_s
-- Gives what is kept; where it was made now also the bytes that the conversation takes, and the
-- ms of its last message, '' before that.

local kept = redis.call('GET', KEYS[9])
if kept then
  return { kept }
end
redis.call('SET', KEYS[9], ARGV[1], 'EX', ARGV[2])
local last = redis.call('LINDEX', KEYS[1], -1)
return { ARGV[1], taken(), last and last:match('^%S+ %S+ (%d+)') or '' }
