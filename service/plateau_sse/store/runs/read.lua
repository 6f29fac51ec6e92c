#!lua flags=no-writes
-- What follows a position, as one moment in time, and no more of it than is asked for.
--
-- KEYS  record, text, events, tokens, marks (one slot)
-- ARGV  token ('' for none), attempt and at of the position (0, 0 for none), most bytes (more
--       only where the first thing alone is), and '1' to have it as the stream has it
--
-- Gives {'gone'}, {'denied'}, {'version'} (another release's run), or
-- {how, owner, status, attempt, at, states, progress, output, …} where output is given with the
-- end of the run alone, where it has one, and how is
--   ahead   the position lies behind all that there is
--   log     before, id, json, … from the stream, from the position on without a hole
--   tape    the attempt and at that it begins at, the last point before that ('' for none), the
--           text, then at, what is there ('o' or 'm'), and that, for each point

local MOST_POINTS = 24
local wanted_attempt, wanted = tonumber(ARGV[2]), tonumber(ARGV[3])
local budget = tonumber(ARGV[4])
local state = redis.call('HMGET', KEYS[1], 'owner', 'state', 'attempt', 'tape', 'progress')
if not state[2] then
  return {redis.call('EXISTS', KEYS[1]) == 1 and 'version' or 'gone'}
end
if ARGV[1] ~= '' and redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 0 then
  return {'denied'}
end
local at, points, states = (state[4] or ''):match('^(%d+) %S %d+ %d+ (%d+) %d+ %d+ (%d+)')
if not at then
  return {'version'}
end
local attempt = tonumber(state[3])
at, points = tonumber(at), tonumber(points)
local reply = {'tape', state[1], state[2], attempt, at, tonumber(states), state[5] or '', false}
local function add_end(json)
  if json:find('^{"type":"run%.completed"') then
    reply[8] = redis.call('HGET', KEYS[1], 'output')
  end
end

if wanted_attempt > attempt or (wanted_attempt == attempt and wanted > at) then
  reply[1] = 'ahead'
  return reply
end

if ARGV[5] == '1' then
  local entries = redis.call('XRANGE', KEYS[3], '(' .. wanted_attempt .. '-' .. wanted, '+')
  local first = entries[1]
  if first then
    local first_attempt, before = tonumber(first[1]:match('^%d+')), tonumber(first[2][2])
    if before == wanted and first_attempt == wanted_attempt
      or before == 0 and first_attempt > wanted_attempt then
      reply[1] = 'log'
      for _, entry in ipairs(entries) do
        local json = entry[2][4]
        budget = budget - #json
        if budget < 0 and #reply > 8 then
          break
        end
        reply[#reply + 1] = entry[2][2]
        reply[#reply + 1] = entry[1]
        reply[#reply + 1] = json
        add_end(json)
      end
      return reply
    end
  end
end

if wanted_attempt < attempt then
  wanted = 0
end
reply[9], reply[10] = attempt, wanted
local passed, open = 0, ''
if wanted == at then
  passed = points
elseif wanted > 0 then
  local last = redis.call('XREVRANGE', KEYS[5], attempt .. '-' .. wanted, '-', 'COUNT', 1)[1]
  if last then
    passed = tonumber(last[2][2])
    if last[2][3] == 'o' then
      open = last[2][4]
    end
  end
end
reply[11] = open
local start = wanted - passed
local until_ = math.min(at - points, start + budget)
local found = {}
if passed < points then
  found = redis.call('XRANGE', KEYS[5], '(' .. attempt .. '-' .. wanted, '+', 'COUNT', MOST_POINTS)
end
local tail = {}
for _, point in ipairs(found) do
  local behind = tonumber(point[1]:match('%d+$'))
  local fields = point[2]
  local offset = behind - tonumber(fields[2])
  if offset > until_ then
    break
  end
  if fields[3] == 'm' then
    budget = budget - #fields[4]
    if budget < 0 and (#tail > 0 or offset > start) then
      until_ = offset
      break
    end
    add_end(fields[4])
  end
  passed = passed + 1
  tail[#tail + 1] = behind
  tail[#tail + 1] = fields[3]
  tail[#tail + 1] = fields[4]
end
if #found == MOST_POINTS and #tail == 3 * MOST_POINTS and passed < points then
  -- There may be more of them in the text that follows.
  local behind = tonumber(found[MOST_POINTS][1]:match('%d+$'))
  until_ = behind - tonumber(found[MOST_POINTS][2][2])
end
reply[12] = until_ > start and redis.call('GETRANGE', KEYS[2], start, until_ - 1) or ''
for _, item in ipairs(tail) do
  reply[#reply + 1] = item
end
return reply
