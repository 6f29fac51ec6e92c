#!lua flags=allow-oom
-- The one writer of a run's stream, status and text. Either it does all of a step or none of it.
--
-- KEYS  record, text, events, tokens (one slot)
-- ARGV  verb, attempt, first_seq, life_s, ended_life_s, ended_events_life_s, number of events,
--       then op, json, arg for each event, then field, value pairs for the record
--
-- verb  append  by the producer of `attempt`; first_seq 0 lets the script number the events
--       claim   starts `attempt`, which must follow the record's; clears what came before
--       end     by whoever finds the run without a producer; `attempt` is the one it saw
--       mark    sets fields of a run that is still queued
-- op    -  nothing to fold     t  arg is text to append     p  progress     k  a tool's event
--       e  terminal, arg is the status
--
-- Gives {code, attempt, seq}: ok, dup (there already), gap (resend from seq + 1), fenced (a later
-- attempt exists), ended, full (the answer would pass 256 KiB), gone. Only ok writes; no run is
-- ever created here.

local STREAM_CAP = 100
local TOOLS_CAP = 32768
local OUTPUT_CAP = 262144

local record, text, events = KEYS[1], KEYS[2], KEYS[3]
local verb, attempt, first = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local count = tonumber(ARGV[7])

local state = redis.call('HMGET', record, 'status', 'attempt', 'seq', 'runner')
local status = state[1]
if not status then
  return {'gone', 0, 0}
end
local now_attempt, seq = tonumber(state[2]), tonumber(state[3])
local running = status == 'queued' or status == 'running'

local pairs_at = 8 + 3 * count
local fields = {}
for i = pairs_at, #ARGV do
  fields[#fields + 1] = ARGV[i]
end

local skip = 0
if verb == 'claim' then
  if attempt == now_attempt and running and state[4] and fields[2] == state[4] then
    return {'dup', now_attempt, seq}
  end
  if not running then
    return {'ended', now_attempt, seq}
  end
  if attempt ~= now_attempt + 1 then
    return {'fenced', now_attempt, seq}
  end
  redis.call('DEL', text)
  redis.call('HDEL', record, 'progress', 'tools', 'placer')
  redis.call('HSET', record, 'status', 'running', 'attempt', attempt)
  now_attempt, seq = attempt, 0
elseif verb == 'end' then
  if not running then
    return {'ended', now_attempt, seq}
  end
  if attempt ~= now_attempt then
    return {'fenced', now_attempt, seq}
  end
  if attempt == 0 then
    -- Nobody claimed it: its only event is its end.
    now_attempt = 1
    redis.call('HSET', record, 'attempt', 1)
  end
elseif verb == 'mark' then
  if status ~= 'queued' then
    return {'ended', now_attempt, seq}
  end
else
  if attempt < now_attempt or attempt < 1 then
    -- A queued run has no producer.
    return {'fenced', now_attempt, seq}
  end
  if attempt > now_attempt then
    return {'gap', now_attempt, seq}
  end
  if fields[1] == 'batch' and redis.call('HGET', record, 'batch') == fields[2] then
    -- The same call, sent again by the connection since its first reply was lost.
    return {'dup', now_attempt, seq}
  end
  if first > 0 then
    if first + count - 1 <= seq and count > 0 then
      return {'dup', now_attempt, seq}
    end
    if first > seq + 1 then
      return {'gap', now_attempt, seq}
    end
    skip = seq + 1 - first
  end
  if not running then
    return {'ended', now_attempt, seq}
  end
end

local growth = 0
for i = skip, count - 1 do
  if ARGV[8 + 3 * i] == 't' then
    growth = growth + #ARGV[10 + 3 * i]
  end
end
if growth > 0 and growth + redis.call('STRLEN', text) > OUTPUT_CAP then
  return {'full', now_attempt, seq}
end

local ended = false
for i = skip, count - 1 do
  local op, json, arg = ARGV[8 + 3 * i], ARGV[9 + 3 * i], ARGV[10 + 3 * i]
  seq = seq + 1
  local id = now_attempt .. '-' .. seq
  redis.call('XADD', events, 'MAXLEN', '=', STREAM_CAP, id, 'e', json)
  if op == 't' then
    redis.call('APPEND', text, arg)
  elseif op == 'p' then
    redis.call('HSET', record, 'progress', json)
  elseif op == 'k' then
    local tools = redis.call('HGET', record, 'tools')
    tools = tools and (tools .. ',' .. json) or json
    if #tools <= TOOLS_CAP then
      redis.call('HSET', record, 'tools', tools)
    end
  elseif op == 'e' then
    ended = true
    redis.call('HSET', record, 'status', arg, 'end', json)
    redis.call('HDEL', record, 'request')
  end
  redis.call('SPUBLISH', record, id .. ' ' .. json)
end
redis.call('HSET', record, 'seq', seq, unpack(fields))

local life, events_life = ARGV[4], ARGV[4]
if ended then
  life, events_life = ARGV[5], ARGV[6]
end
redis.call('EXPIRE', record, life)
redis.call('EXPIRE', text, life)
redis.call('EXPIRE', KEYS[4], life)
redis.call('EXPIRE', events, events_life)
return {'ok', now_attempt, seq}
