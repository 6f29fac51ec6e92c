#!lua flags=allow-oom
-- One caller gives up its share in a run.
--
-- KEYS  record, text, events, tokens (one slot)      ARGV  token
-- Gives how many callers still hold theirs. A share given up still reads: its token stays, and
-- is marked by a second member.
if redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 0 then
  return 0
end
redis.call('SADD', KEYS[4], '!' .. ARGV[1])
local given, all = 0, redis.call('SMEMBERS', KEYS[4])
for _, member in ipairs(all) do
  if member:sub(1, 1) == '!' then
    given = given + 1
  end
end
return #all - 2 * given
