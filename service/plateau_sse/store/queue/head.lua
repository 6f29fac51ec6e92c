-- What stands before each script of the queue.
--
-- KEYS  since, held, places, turn, turns, runners, bell, back, asked, serving, shared, owned, then
--       lines (see keys.py); what a line is called, <agent>@<version>, is not its key
local since, held, places, turn, turns, runners, bell, back, asked, serving, shared, owned =
  unpack(KEYS, 1, 12)
-- Keys before the lines.
local BEFORE = 12
-- The line that is the nth given.
local function line(n)
  return KEYS[BEFORE + n]
end
-- In front of everyone whose turn it is.
local FRONT = -1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- A place: how its run came into the line (n new, l lost by its runner, h handed back); the runner
-- that has it, or lost it, '-' for none; owner and line.
local function read(run)
  return (redis.call('HGET', places, run) or ''):match('^(%a) (%S+) (%S+) (.+)$')
end
local function write(run, how, runner, owner, name)
  redis.call('HSET', places, run, table.concat({how, runner, owner, name}, ' '))
end
-- Among those of its owner in a line: all of one owner are beside each other, by their turns. A
-- name has neither of the two characters, and \v is the next one behind \n.
local function owned_as(name, owner, at, run)
  return table.concat({name, owner, ('%016d'):format(at), run}, '\n')
end
-- In a line, by its key and what it is called; `owner` where others may wait for them to end.
local function stand(key, name, run, at, owner)
  redis.call('ZADD', key, at, run)
  redis.call('SADD', asked, name)
  if owner then
    redis.call('ZADD', owned, 0, owned_as(name, owner, at, run))
  end
end
local function step_out(key, name, run)
  local at = tonumber(redis.call('ZSCORE', key, run) or FRONT)
  if at ~= FRONT then
    local _, _, owner = read(run)
    redis.call('ZREM', owned, owned_as(name, owner or '', at, run))
  end
  redis.call('ZREM', key, run)
  if redis.call('EXISTS', key) == 0 then
    redis.call('SREM', asked, name)
  end
end
-- A run that nobody has, since then.
local function wait(run, at, again)
  redis.call('ZADD', since, at, run)
  if again then
    redis.call('ZADD', back, at, run)
  end
end
-- Gives 1 where it has waited.
local function wait_no_more(run)
  redis.call('ZREM', back, run)
  return redis.call('ZREM', since, run)
end
-- Whoever waits for runs looks again.
local function ring()
  redis.call('XADD', bell, 'MAXLEN', 1, '*', '', '')
end
-- Lines of runs whose leases have run out, where there are any.
local function late()
  local found, seen = {}, {}
  for _, run in ipairs(redis.call('ZRANGE', held, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do
    local _, _, _, name = read(run)
    if name and not seen[name] then
      seen[name] = true
      found[#found + 1] = name
    end
  end
  return found
end
