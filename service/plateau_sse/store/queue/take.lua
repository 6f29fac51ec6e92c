-- Takes runs for a runner, whose sign of life this is: what others have lost or handed back first,
-- then by turns.
--
-- ARGV  runner, ms of a lease, its free places, most that it takes without one: of those that
--       are not new, after so many ms in which nobody with a place has come; ms after which the
--       name of a runner is forgotten; ms after which a runner is dead; how many of the lines are
--       its own: of the versions that it has; what those are called, then what others are called,
--       of which it takes from those that are left
-- Gives {last id of the bell, ms, lines of late leases, {run, line, how} of each that is taken,
-- lines that are left: of an agent that it has, in a version that no living runner has}.
local runner, lease_ms = ARGV[1], ARGV[2]
local free, without, after_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
-- Before what is said of them.
local BEFORE_NAMES, own = 8, tonumber(ARGV[8])
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
for n = 1, #KEYS - BEFORE do
  local name = ARGV[BEFORE_NAMES + n]
  -- Of the others only what still is: its runner may have come.
  local is_open = n <= own or is_left[name]
  heads[n] = is_open and redis.call('ZRANGE', line(n), 0, 0, 'WITHSCORES') or {}
  lines[name] = is_open and line(n) or nil
end
local function take(run, from, name, at)
  step_out(from, name, run)
  wait_no_more(run)
  local how, _, owner = read(run)
  if how then
    write(run, how, runner, owner, name)
    redis.call('ZADD', held, now + lease_ms, run)
    taken[#taken + 1] = {run, name, how}
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
  free = free - 1
  take(heads[first][1], line(first), ARGV[BEFORE_NAMES + first], best)
  heads[first] = redis.call('ZRANGE', line(first), 0, 0, 'WITHSCORES')
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
return {rung and rung[1] or '0-0', now, late(), taken, left}
