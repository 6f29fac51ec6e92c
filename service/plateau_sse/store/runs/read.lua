#!lua flags=no-writes
-- What a reader has not seen yet, as one moment in time.
--
-- KEYS  record, text, events, tokens (one slot)
-- ARGV  token ('' for none), attempt and seq of the last event seen (0, 0 for none)
--
-- Gives {'gone'}, {'denied'}, or {kind, owner, status, attempt, seq, …} with
--   entries   id, json, id, json, … after the position, without a hole
--   snapshot  text, progress, tools, end: the position has been trimmed, or lies ahead

local at, seen = tonumber(ARGV[2]), tonumber(ARGV[3])
local state = redis.call('HMGET', KEYS[1], 'owner', 'status', 'attempt', 'seq')
if not state[2] then
  return {'gone'}
end
if ARGV[1] ~= '' and redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 0 then
  return {'denied'}
end
local attempt, seq = tonumber(state[3]), tonumber(state[4])

local reply = {'entries', state[1], state[2], attempt, seq}
if at == attempt and seen == seq then
  return reply
end
if at < attempt or (at == attempt and seen < seq) then
  local after = '(' .. at .. '-' .. seen
  if at == 0 then
    after = '-'
  end
  local entries = redis.call('XRANGE', KEYS[3], after, '+')
  local first = entries[1] and entries[1][1]
  if first and (first == at .. '-' .. (seen + 1) or first:sub(-2) == '-1') then
    for _, entry in ipairs(entries) do
      reply[#reply + 1] = entry[1]
      reply[#reply + 1] = entry[2][2]
    end
    return reply
  end
end

local folded = redis.call('HMGET', KEYS[1], 'progress', 'tools', 'end')
return {'snapshot', state[1], state[2], attempt, seq,
        redis.call('GET', KEYS[2]) or '', folded[1] or '', folded[2] or '', folded[3] or ''}
