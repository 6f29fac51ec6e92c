#!lua flags=allow-oom
-- The caller whose run found no place in the queue takes it back, unless others share it.
--
-- KEYS  record, text, events, tokens, marks (one slot)      ARGV  token, reason
-- Gives 'gone'; 'left' where it is the others', or has been claimed; 'given_up' where all of
-- them have given it up: the wish to cancel is noted then, so nobody can join it any more.
if redis.call('HGET', KEYS[1], 'state') ~= 'queued' then
  return 'left'
end
redis.call('SREM', KEYS[4], ARGV[1], '!' .. ARGV[1])
local placer = redis.call('HGET', KEYS[1], 'placer')
if placer and placer:match('^%S+') == ARGV[1] then
  -- Another may see to its place now, and need not wait.
  redis.call('HDEL', KEYS[1], 'placer')
end
local given, all = 0, redis.call('SMEMBERS', KEYS[4])
if #all == 0 then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
  return 'gone'
end
for _, member in ipairs(all) do
  if member:sub(1, 1) == '!' then
    given = given + 1
  end
end
if #all - 2 * given > 0 then
  return 'left'
end
redis.call('HSET', KEYS[1], 'cancel', ARGV[2])
return 'given_up'
