#!lua flags=allow-oom
-- The caller whose run found no place in the queue takes it back, unless others share it.
--
-- KEYS  record, text, events, tokens (one slot)      ARGV  token
-- Gives 1 where the run is gone, 0 where it has been left to the others.
if redis.call('HGET', KEYS[1], 'status') ~= 'queued' then
  return 0
end
redis.call('SREM', KEYS[4], ARGV[1])
if redis.call('SCARD', KEYS[4]) > 0 then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
return 1
