-- Takes runs for a runner, whose sign of life this is: what others have lost or handed back first,
-- then by turns. Where owners share the service none has all of its places: a run is passed over
-- while its owner has `SHARE` times as many there as would still be free, all but one. So of
-- 32 places one owner has 28, two have 14 each, and there is always one for who has none. What
-- somebody had is nobody's share: it must go on.
--
-- ARGV  runner, ms of a lease, its free places, most that it takes without one: of those that
--       are not new, after so many ms in which nobody with a place has come; ms after which the
--       name of a runner is forgotten; ms after which a runner is dead; how many places each
--       owner has there, as "<owner> <places>" in lines; how many of the lines are
--       its own: of the versions that it has; what those are called, then what others are called,
--       of which it takes from those that are left
-- Gives {last id of the bell, ms, lines of late leases, {run, line, how, owner} of each that is
-- taken, lines that are left: of an agent that it has, in a version that no living runner has;
-- 1 where a run was passed over}.
local runner, lease_ms = ARGV[1], ARGV[2]
local free, without, after_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
-- Before what is said of them.
local BEFORE_NAMES, own = 9, tonumber(ARGV[9])
redis.call('ZADD', runners, now, runner)
local gone = redis.call('ZRANGE', runners, '-inf', now - ARGV[6], 'BYSCORE', 'LIMIT', 0, 1000)
if #gone > 0 then
  redis.call('ZREM', runners, unpack(gone))
  redis.call('HDEL', serving, unpack(gone))
end
local names = table.concat(ARGV, '\n', BEFORE_NAMES + 1, BEFORE_NAMES + own)
if redis.call('HGET', serving, runner) ~= names then
  redis.call('HSET', serving, runner, names)
end
local function agent_of(name)
  return name:match('^(.*)@') or name
end
local function served()
  local found = {}
  for _, other in ipairs(redis.call('ZRANGE', runners, now - ARGV[7], '+inf', 'BYSCORE')) do
    for name in (redis.call('HGET', serving, other) or ''):gmatch('[^\n]+') do
      found[name] = true
    end
  end
  return found
end
local mine, agents, left, is_left = {}, {}, {}, {}
for n = 1, own do
  local name = ARGV[BEFORE_NAMES + n]
  mine[name], agents[agent_of(name)] = true, true
end
local by_others
for _, name in ipairs(redis.call('SMEMBERS', asked)) do
  if not mine[name] and agents[agent_of(name)] then
    by_others = by_others or served()
    if not by_others[name] then
      left[#left + 1], is_left[name] = name, true
    end
  end
end
-- Of those that somebody had, in one go.
local SEEN = 2000
local heads, taken, reached, lines = {}, {}, false, {}
local shares, has, passed = redis.call('EXISTS', shared) == 1, {}, 0
for owner, places_there in ARGV[8]:gmatch('(%S+) (%d+)') do
  has[owner] = tonumber(places_there)
end
local SHARE = 7
-- Of a line so many are looked at one by one, and then so many owners: however many runs one has
-- that are passed over, they are not gone through.
local PEEK, OWNERS = 64, 2000
-- Once an owner may not it may not in all of this call: it has no less, and less is free.
local function may(run, owner)
  if not owner then
    local _, _, whose = read(run)
    owner = whose
  end
  local theirs = has[owner or ''] or 0
  return theirs == 0 or theirs < SHARE * (free - 1)
end
local function first_by_owners(n)
  local name, found = ARGV[BEFORE_NAMES + n], {}
  local after, last = name .. '\n', '(' .. name .. '\v'
  for _ = 1, OWNERS do
    local member = redis.call('ZRANGE', owned, '(' .. after, last, 'BYLEX', 'LIMIT', 0, 1)[1]
    if not member then
      break
    end
    local owner, turn_of, run = member:sub(#name + 2):match('^(%S+)\n(%d+)\n(.+)$')
    local at = tonumber(turn_of)
    if tonumber(redis.call('ZSCORE', line(n), run) or FRONT) ~= at then
      -- Taken by who knows nothing of this.
      redis.call('ZREM', owned, member)
    else
      if may(run, owner)
         and (not found[1] or at < found[2] or at == found[2] and run < found[1]) then
        found = {run, at}
      end
      after = name .. '\n' .. owner .. '\v'
    end
  end
  return found
end
-- The first in a line that may be taken, with its turn.
local function first_of(n)
  local rows = redis.call('ZRANGE', line(n), 0, 0, 'WITHSCORES')
  if not shares or not rows[1] or tonumber(rows[2]) == FRONT or may(rows[1]) then
    return rows
  end
  passed = 1
  rows = redis.call('ZRANGE', line(n), 1, PEEK, 'WITHSCORES')
  for at = 1, #rows, 2 do
    if may(rows[at]) then
      return {rows[at], rows[at + 1]}
    end
  end
  return #rows < 2 * PEEK and {} or first_by_owners(n)
end
for n = 1, #KEYS - BEFORE do
  local name = ARGV[BEFORE_NAMES + n]
  -- Of the others only what still is: its runner may have come.
  local is_open = n <= own or is_left[name]
  heads[n] = is_open and free > 0 and first_of(n) or {}
  -- What was left when it was looked last may be its own by now, and is named twice.
  lines[name] = is_open and line(n) or lines[name]
end
local function take(run, from, name, at)
  step_out(from, name, run)
  wait_no_more(run)
  local how, _, owner = read(run)
  if how then
    write(run, how, runner, owner, name)
    redis.call('ZADD', held, now + lease_ms, run)
    taken[#taken + 1] = {run, name, how, owner}
    has[owner] = (has[owner] or 0) + 1
  end
  reached = math.max(reached or at, at)
end
while free > 0 do
  local first, best
  for n, head in ipairs(heads) do
    local mine = tonumber(head[2])
    if mine and (not first or mine < best or mine == best and head[1] < heads[first][1]) then
      first, best = n, mine
    end
  end
  if not first then
    break
  end
  -- What was taken since may have been of the same owner.
  if not shares or best == FRONT or may(heads[first][1]) then
    take(heads[first][1], line(first), ARGV[BEFORE_NAMES + first], best)
    free = free - 1
  end
  heads[first] = free > 0 and first_of(first) or {}
end
-- By age: in front of its line may be what was lost a moment ago.
local old = {}
if free == 0 and next(lines) then
  old = redis.call('ZRANGE', back, '-inf', now - after_ms, 'BYSCORE', 'LIMIT', 0, SEEN)
end
for _, run in ipairs(old) do
  if without == 0 then
    break
  end
  local _, _, _, name = read(run)
  -- A release that knows nothing of this may have taken it.
  local at = redis.call('ZSCORE', since, run)
  if lines[name or ''] and at and now - at >= after_ms then
    without = without - 1
    take(run, lines[name], name, FRONT)
  end
end
if reached then
  if redis.call('EXISTS', since) == 0 then
    -- Nobody waits: everybody's turn has come.
    redis.call('DEL', turn, turns)
  elseif reached > tonumber(redis.call('GET', turn) or 0) then
    redis.call('SET', turn, reached)
    -- Not those who are at it: one who comes again and again would always be first.
    redis.call('ZREMRANGEBYSCORE', turns, '-inf', '(' .. reached)
  end
end
local rung = redis.call('XREVRANGE', bell, '+', '-', 'COUNT', 1)[1]
return {rung and rung[1] or '0-0', now, late(), taken, left, free > 0 and passed or 0}
