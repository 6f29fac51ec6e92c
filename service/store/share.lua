#!lua
-- One more caller for a run that is on. Refused when memory is full, as new runs are.
--
-- KEYS  record, text, events, tokens (one slot)      ARGV  token, most tokens
--
-- Gives 'running', 'queued', 'enqueued' (queued, and known to have a place in the queue), or
-- 'over' where nobody can join it any more: ended, gone, being cancelled, or shared by as many
-- as may.
local state = redis.call('HMGET', KEYS[1], 'status', 'cancel', 'enqueued')
local status = state[1]
if (status ~= 'queued' and status ~= 'running') or state[2] then
  return 'over'
end
if redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 0 then
  if redis.call('SCARD', KEYS[4]) >= tonumber(ARGV[2]) then
    return 'over'
  end
  redis.call('SADD', KEYS[4], ARGV[1])
end
if status == 'queued' and state[3] then
  return 'enqueued'
end
return status
