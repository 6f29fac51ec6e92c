#!lua flags=allow-oom
-- One caller gives up its share in a run.
--
-- KEYS  record, text, events, tokens, marks (one slot)      ARGV  token, reason
-- Gives how many callers still hold theirs. With the last share the wish to cancel is noted in
-- the same step, so nobody can join a run that is about to be cancelled. A share given up still
-- reads: its token stays, and is marked by a second member.
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
local held = #all - 2 * given
local status = redis.call('HGET', KEYS[1], 'state')
if held == 0 and (status == 'queued' or status == 'running') then
  redis.call('HSET', KEYS[1], 'cancel', ARGV[2])
end
return held
