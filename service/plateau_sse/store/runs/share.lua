#!lua
-- One more caller for a run that is on. Refused when memory is full, as new runs are.
--
-- KEYS  record, text, events, tokens, marks (one slot)
-- ARGV  token, most tokens, ms that a caller may take to find a run its place
--
-- Gives the run's status; in place of 'queued' may stand 'enqueued' (known to have a place in
-- the queue) or 'unplaced' (it has none, and this caller is to see to that: 'queued' is one that
-- another is seeing to). 'over' where nobody can join it any more: ended, gone, being
-- cancelled, or shared by as many as may. Who has a share keeps it: it is told what became of
-- the run.
local record, tokens = KEYS[1], KEYS[4]
local state = redis.call('HMGET', record, 'state', 'cancel', 'enqueued', 'placer')
local status = state[1]
if not status then
  return 'over'
end
if redis.call('SISMEMBER', tokens, ARGV[1]) == 0 then
  if (status ~= 'queued' and status ~= 'running') or state[2] then
    return 'over'
  end
  if redis.call('SCARD', tokens) >= tonumber(ARGV[2]) then
    return 'over'
  end
  redis.call('SADD', tokens, ARGV[1])
end
if status ~= 'queued' then
  return status
end
if state[3] then
  return 'enqueued'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local placer, since = (state[4] or ''):match('^(%S+) (%d+)$')
-- Either way, since a clock may be set back.
if placer and placer ~= ARGV[1] and math.abs(now - since) < tonumber(ARGV[3]) then
  return 'queued'
end
redis.call('HSET', record, 'placer', ARGV[1] .. ' ' .. now)
return 'unplaced'
