-- The one writer of a run's tape, stream and status. Either it does all of a step or none of it:
-- who may not publish says so to nobody, once everything is written, and readers find it there.
-- appending.py puts a head before it: as it stands a full memory refuses it, as `tight` it may
-- still write a little.
--
-- KEYS  record, text, events, tokens, marks (one slot)
-- ARGV  verb, attempt, first_seq, life_s, ended_life_s, ended_events_life_s, flags (t: tight, h:
--       its end is held, o: settles its own), number of events, then op, json, arg, part for each
--       event, then field, value pairs for the record.
--       A field `…_ms` is set to the server's time: the clocks of those who write may differ.
--       `batch` comes first, and names a call that has no first_seq: the latest are kept
--
-- verb  append  by the producer of `attempt`; first_seq 0 lets the script number the events.
--               Where the server is another than before it may have lost some of them, and nobody
--               can tell: what is left becomes the beginning of a new attempt
--       claim   starts `attempt`, later than the record's; clears what came before. first_seq 1
--               says that the next number may have been another's, which is lost
--       end     by whoever finds the run without a producer; `attempt` is the one it saw. Where
--               the server is another, it ends as a new attempt, too: a reader may have had other
--               text where the end would stand
--       mark    sets fields of a run that is still queued
--       settle  writes the end that is held; `attempt` and `first_seq` are those it was told. Of
--               those who ask for the same end one is told ok, whoever has settled it
--
-- What a reader is told as the end must not be lost with a primary. Where replicas are to have it
-- first it is held: decided, kept in the record, and seen by nobody. Who calls meanwhile is told
-- so, sees to it that replicas have it, and settles it.
--
-- op    t r  arg is text of a part, of thoughts; json what follows the part's number; part is
--            '' or that number, and behind a space the part that it continues
--       T R  the same, and one with the event before it in the producer's count
--       m  a mark     e  the mark that ends the run, arg is the status
--       s  state      p  progress: the latest is kept
--
-- Gives {code, attempt, seq, parts}: ok, dup (there already), held (settle it, with these numbers,
-- as also where one's own end is held and ok), gap (resend from seq + 1), fenced (a
-- later attempt exists), skip (claim the number that stands for seq: the next may have been lost),
-- ended, full (a bound of the tape would be passed), part (none of that number to go on with or to
-- open), tight, version (another release's run), gone. Only ok writes, but that held renews what
-- the run lives; no run is ever created here. seq is the producer's count, in which an end by
-- another has no number; parts those opened so far (for `part`, before the event that is refused).
-- Behind them a claim that is ok or dup has what was claimed: agent, owner, request, cancel and tries.
--
-- The field `tape` has: at, kind and number of the open part ('-' for none), parts, points, bytes
-- of marks, bytes put into the stream since they were counted, states, bytes written when tight.

local STREAM_ENTRIES, STREAM_BYTES = 100, 262144
local TEXT_MOST, MARKS_MOST, POINTS_MOST = 262144, 262144, 1000
-- What stands around an entry in the stream and a mark among the marks.
local BESIDES = 24
-- So many producers may each have a call that is sent again.
local BATCHES_KEPT = 8
-- When memory is full: few entries, since the tape has all of it, and so much of a run.
local TIGHT_ENTRIES, TIGHT_BYTES = 8, 8192
-- Those that are one with the event before them.
local LATER = {T = 't', R = 'r'}
local HEADS = {t = '{"type":"message.delta","part":', r = '{"type":"reasoning.delta","part":'}

local record, text, events, marks = KEYS[1], KEYS[2], KEYS[3], KEYS[5]
local ARGV = ARGV
local tight, holds = ARGV[7]:find('t') ~= nil, ARGV[7]:find('h') ~= nil
local is_own = ARGV[7]:find('o') ~= nil

local state = redis.call('HMGET', record, 'state', 'attempt', 'seq', 'tape', 'runner', 'server',
                         'created_ms', 'begun_ms', 'ending')
local status = state[1]
if not status then
  return {redis.call('EXISTS', record) == 1 and 'version' or 'gone', 0, 0, 0}
end
local now_attempt, seq = tonumber(state[2]), tonumber(state[3])
local at, kind, open, parts, points, mark_bytes, held, states, over =
  (state[4] or ''):match('^(%d+) (%S) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
if not at then
  return {'version', now_attempt, seq, 0}
end
at, open, parts, points = tonumber(at), tonumber(open), tonumber(parts), tonumber(points)
mark_bytes, held, states, over = tonumber(mark_bytes), tonumber(held), tonumber(states), tonumber(over)
local running = status == 'queued' or status == 'running'
local verb = ARGV[1]
local stands = (state[9] or holds) and state[2] .. ' ' .. state[4]
local function renew()
  for _, key in ipairs(KEYS) do
    redis.call('EXPIRE', key, ARGV[4])
  end
end
-- {its call, the attempt and the seq that it ends with, whether that attempt is a new one, and
-- where the run stood}
local ending = running and state[9] and cmsgpack.unpack(state[9])
if ending and ending[5] ~= stands then
  -- A release that knows of none has written since.
  ending = nil
end
if ending then
  local held_call, is_same = ending[1], holds and #ending[1] == #ARGV
  if verb == 'settle' then
    if tonumber(ARGV[2]) ~= ending[2] or tonumber(ARGV[3]) ~= ending[3] then
      -- That one was lost, and this is another.
      return {'gap', now_attempt, seq, parts}
    end
  else
    for i, value in ipairs(held_call) do
      -- How long it lives, and whether memory is full, may be others by now.
      is_same = is_same and (value == ARGV[i] or i >= 4 and i <= 7)
    end
    -- It may wait for longer than a run may be silent. And as something is written, also where
    -- memory is full, WAIT does not answer for what was before.
    renew()
    return {is_same and 'ok' or 'held', ending[2], ending[3], parts}
  end
  ARGV = held_call
  verb = ARGV[1]
end
local attempt, first, count = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[8])
-- A server that was started anew, or another in its place, may have lost the last second. It is
-- asked where that matters: it takes as long as half an append.
local server = state[6]
local function is_another()
  local info = redis.pcall('INFO', 'server')
  server = type(info) == 'string' and info:match('run_id:(%x%x%x%x%x%x%x%x)') or ''
  return server ~= state[6]
end
local clock
local function now_ms()
  if not clock then
    local time = redis.call('TIME')
    clock = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock
end
-- A number that no lost attempt has had: it grows by ten a second, and claims do not.
local function beyond()
  local age_ms = now_ms() - tonumber(state[7])
  return now_attempt + 2 + math.max(0, math.floor(age_ms / 100))
end
local function answer(code)
  local found = {code, now_attempt, seq, parts}
  if verb == 'claim' and (code == 'ok' or code == 'dup') then
    found[5] = redis.call('HMGET', record, 'agent', 'owner', 'request', 'cancel', 'tries')
  end
  return found
end

local fields, output = {}, false
for i = 9 + 4 * count, #ARGV, 2 do
  fields[#fields + 1] = ARGV[i]
  fields[#fields + 1] = ARGV[i]:match('_ms$') and now_ms() or ARGV[i + 1]
  if ARGV[i] == 'output' then
    output = ARGV[i + 1]
  end
end
-- What the producer counts.
local counted = 0
for i = 9, 5 + 4 * count, 4 do
  if not LATER[ARGV[i]] then
    counted = counted + 1
  end
end

-- Whether this step is the caller's to do.
local skip, fresh, again, begins = 0, false, false, false
if verb == 'claim' then
  if attempt == now_attempt and running and state[5] and fields[2] == state[5] then
    return answer('dup')
  end
  if not running then
    return answer('ended')
  end
  if attempt <= now_attempt then
    return answer('fenced')
  end
  if (is_another() or first == 1) and attempt == now_attempt + 1 then
    return {'skip', now_attempt, beyond(), parts}
  end
  now_attempt, seq, fresh = attempt, 0, true
  at, kind, parts, points, mark_bytes, over = 0, '-', 0, 0, 0, 0
elseif verb == 'end' then
  if not running then
    return answer('ended')
  end
  if attempt ~= now_attempt then
    return answer('fenced')
  end
  again = is_another()
  if now_attempt == 0 then
    -- Nobody claimed it: its only event is its end.
    now_attempt, begins = 1, true
  end
elseif verb == 'settle' then
  -- It has been, or it was lost.
  if running then
    return answer('gap')
  end
  if attempt ~= now_attempt or first ~= seq then
    return answer('ended')
  end
  return answer(is_own and redis.call('HDEL', record, 'untold') == 1 and 'ok' or 'dup')
elseif verb == 'mark' then
  if status ~= 'queued' then
    return answer('ended')
  end
else
  if fields[1] == 'batch' then
    local names = {fields[2]}
    for name in (redis.call('HGET', record, 'batch') or ''):gmatch('%S+') do
      if name == fields[2] then
        -- The same call, sent again by the connection since its first reply was lost.
        return answer('dup')
      end
      if #names < BATCHES_KEPT then
        names[#names + 1] = name
      end
    end
    fields[2] = table.concat(names, ' ')
  end
  if attempt < now_attempt or attempt < 1 then
    -- A queued run has no producer.
    return answer('fenced')
  end
  if attempt > now_attempt then
    return answer('gap')
  end
  if first > 0 then
    if first + counted - 1 <= seq and counted > 0 then
      return answer('dup')
    end
    if first > seq + 1 then
      return answer('gap')
    end
    skip = seq + 1 - first
  elseif counted > 0 then
    again = is_another() and seq > 0
  end
  if not running then
    return answer('ended')
  end
end

-- What the batch does to the tape, before anything of it is done. `opens` has the number of the
-- part that an event opens, false for one that says nothing.
local opens, skipped, growth, grown = {}, 0, 0, 0
local new_kind, new_open, new_parts, new_points = kind, open, parts, points
local begin = 9
while begin < 9 + 4 * count do
  if not LATER[ARGV[begin]] then
    skipped = skipped + 1
  end
  if skipped > skip then
    break
  end
  begin = begin + 4
end
local stop = 8 + 4 * count
local ended = false
for i = begin, stop, 4 do
  local op = LATER[ARGV[i]] or ARGV[i]
  if op == 't' or op == 'r' then
    local said, given, number, continues = ARGV[i + 2], ARGV[i + 3], '', ''
    if given ~= '' then
      number, continues = given:match('^(%d*) ?(%d*)$')
    end
    local same = new_kind == op and continues == '' and (number == '' or tonumber(number) == new_open)
    if not same then
      if number ~= '' and tonumber(number) ~= new_parts
        or continues ~= '' and tonumber(continues) >= new_parts then
        parts = new_parts
        return answer('part')
      end
      opens[i] = new_parts
      new_kind, new_open = op, new_parts
      new_parts, new_points = new_parts + 1, new_points + 1
    elseif said == '' then
      opens[i] = false
    end
    growth = growth + #said
  elseif op == 'm' then
    grown = grown + #ARGV[i + 1]
    new_kind, new_points = '-', new_points + 1
  elseif op == 'e' then
    ended = true
  end
end
-- An answer that is not the text counts with it.
growth = growth + (output and #output or 0)
if growth > 0 and at - points + growth > TEXT_MOST
  or grown > 0 and mark_bytes + grown > MARKS_MOST
  or new_points > POINTS_MOST and new_points > points then
  return answer('full')
end
-- The end itself always fits.
local more = growth + grown + BESIDES * (new_points - points)
if tight and more > 0 and over + more > TIGHT_BYTES and not ending then
  return answer('tight')
end
if ending then
  again = ending[4]
elseif holds then
  if again then
    now_attempt, seq = beyond(), 0
  end
  seq = seq + (verb == 'end' and 0 or counted - skip)
  redis.call('HSET', record, 'ending', cmsgpack.pack({ARGV, now_attempt, seq, again, stands}))
  renew()
  return answer('ok')
end

if fresh then
  redis.call('DEL', text, marks)
  redis.call('HDEL', record, 'progress', 'placer')
  redis.call('HSET', record, 'state', 'running', 'attempt', now_attempt,
             'begun_ms', state[8] or now_ms())
  redis.call('HINCRBY', record, 'tries', 1)
elseif again then
  -- No position may stand for two texts. What the stream has is of the attempt before.
  now_attempt, seq, held = ending and ending[2] or beyond(), 0, 0
  local left = redis.call('XRANGE', marks, '-', '+')
  redis.call('DEL', marks, events)
  for _, point in ipairs(left) do
    local point_fields = point[2]
    if point_fields[2] == '1' then
      -- `run.started`, which names it.
      point_fields[4] = point_fields[4]:gsub('"attempt":%d+}$', '"attempt":' .. now_attempt .. '}')
    end
    redis.call('XADD', marks, now_attempt .. point[1]:match('%-%d+$'), unpack(point_fields))
  end
end
if again or begins then
  redis.call('HSET', record, 'attempt', now_attempt)
end
if tight then
  redis.call('XTRIM', events, 'MAXLEN', TIGHT_ENTRIES)
  over = over + more
end

-- Whether all keys are there already, each with its life.
local had_text = at > points
local prefix = now_attempt .. '-'
local entries = tight and TIGHT_ENTRIES or STREAM_ENTRIES
local messages = {}
local function publish()
  for _, message in ipairs(messages) do
    redis.pcall('SPUBLISH', record, message)
  end
end
for i = begin, stop, 4 do
  local name = ARGV[i]
  local op, json, arg = LATER[name] or name, ARGV[i + 1], ARGV[i + 2]
  if op == name and verb ~= 'end' then
    seq = seq + 1
  end
  local before = at
  if op == 't' or op == 'r' then
    local opened = opens[i]
    if opened then
      local continues = ARGV[i + 3]:match(' %d+$') or ''
      kind, open, parts, points, at = op, opened, opened + 1, points + 1, at + 1
      redis.call('XADD', marks, prefix .. at, 'n', points, 'o', opened .. ' ' .. op .. continues)
    end
    if arg ~= '' then
      at = redis.call('APPEND', text, arg) + points
    end
    json = HEADS[op] .. open .. json
  elseif op == 'm' or op == 'e' then
    kind, points, at = '-', points + 1, at + 1
    mark_bytes = mark_bytes + #json
    redis.call('XADD', marks, prefix .. at, 'n', points, 'm', json)
    if op == 'e' then
      redis.call('HSET', record, 'state', arg)
    end
  else
    states = states + 1
    if op == 'p' then
      redis.call('HSET', record, 'progress', json)
    end
    messages[#messages + 1] = prefix .. 's-' .. states .. ' ' .. json
  end
  if at > before then
    held = held + #json + BESIDES
    redis.call('XADD', events, 'MAXLEN', '=', entries, prefix .. at, 'b', before, 'e', json)
    if output and op == 'e' then
      -- The record has what belongs to it: whoever hears of it reads it.
      json = ''
    end
    messages[#messages + 1] = prefix .. before .. '-' .. at .. ' ' .. json
  end
end

if held > STREAM_BYTES then
  -- The oldest have gone by their number meanwhile: what is there is counted, from the newest.
  local found = redis.call('XREVRANGE', events, '+', '-')
  held = 0
  for _, entry in ipairs(found) do
    held = held + #entry[2][4] + BESIDES
    if held > STREAM_BYTES / 2 then
      redis.call('XTRIM', events, 'MINID', '=', entry[1])
      break
    end
  end
end
local tape = table.concat({at, kind, open, parts, points, mark_bytes, held, states, over}, ' ')
redis.call('HSET', record, 'seq', seq, 'tape', tape, unpack(fields))
if state[6] ~= server then
  redis.call('HSET', record, 'server', server)
end

local life, events_life = ARGV[4], ARGV[4]
if ended then
  life, events_life = ARGV[5], ARGV[6]
  -- What only a run that is on needs.
  redis.call('HDEL', record, 'request', 'progress', 'runner', 'enqueued', 'lease_ms', 'spared',
             'blamed', 'begun_ms', 'ending')
  if ending and not is_own then
    -- The next of those whose it is has ended it.
    redis.call('HSET', record, 'untold', 1)
  end
  -- Both have grown into more than they need, and grow no more.
  local said = redis.call('GET', text)
  if said then
    redis.call('SET', text, said)
  end
  if redis.call('COPY', marks, marks .. ':copy', 'REPLACE') == 1 then
    redis.call('RENAME', marks .. ':copy', marks)
  end
elseif had_text and not again and redis.call('TTL', record) > life - 5 then
  -- They have been renewed a moment ago, all that there are.
  publish()
  return answer('ok')
end
redis.call('EXPIRE', record, life)
redis.call('EXPIRE', text, life)
redis.call('EXPIRE', KEYS[4], life)
redis.call('EXPIRE', marks, life)
redis.call('EXPIRE', events, events_life)
publish()
return answer('ok')
