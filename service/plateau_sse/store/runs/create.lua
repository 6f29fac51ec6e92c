#!lua
-- Writes the record of a new run; a repeat under the same id joins it. Without field, value
-- pairs it only joins.
--
-- KEYS  record, text, events, tokens, marks (one slot)
-- ARGV  token, life_s, fingerprint of what is asked, most tokens, then field, value pairs
--
-- Gives 'created' (its place is for this caller to find), 'absent', the status of the run that
-- was there already ('enqueued' where it is known to have a place in the queue), 'conflict' where
-- another request has the id, 'version' where another release's run has it, or 'crowded' where as
-- many callers share the run as may.
-- Refused when memory is full: a new run is not worth a running one.

local record, tokens = KEYS[1], KEYS[4]
local status = redis.call('HGET', record, 'state')
if status then
  if redis.call('HGET', record, 'fingerprint') ~= ARGV[3] then
    return 'conflict'
  end
  if redis.call('SISMEMBER', tokens, ARGV[1]) == 0 then
    if redis.call('SCARD', tokens) >= tonumber(ARGV[4]) then
      return 'crowded'
    end
    redis.call('SADD', tokens, ARGV[1])
  end
  if status == 'queued' and redis.call('HGET', record, 'enqueued') then
    return 'enqueued'
  end
  return status
end
if redis.call('EXISTS', record) == 1 then
  return 'version'
end
if #ARGV < 5 then
  return 'absent'
end
local fields = {}
for i = 5, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local placer = ARGV[1] .. ' ' .. now_ms
-- append.lua looks whether it is still the same.
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and info:match('run_id:(%x%x%x%x%x%x%x%x)') or ''
redis.call('HSET', record, 'fingerprint', ARGV[3], 'placer', placer, 'server', server,
           'tape', '0 - 0 0 0 0 0 0 0', 'created_ms', now_ms, unpack(fields))
redis.call('SADD', tokens, ARGV[1])
redis.call('EXPIRE', record, ARGV[2])
redis.call('EXPIRE', tokens, ARGV[2])
return 'created'
