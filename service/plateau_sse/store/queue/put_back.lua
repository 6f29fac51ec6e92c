-- Puts runs back in front of their lines: those that a runner holds, or those of anybody
-- whose leases had run out at a time.
--
-- ARGV  how they come into the line (l, h), runner or '', time in ms, 1 where that runner leaves
--       and has no lines any more, what the lines are called
-- Gives how many.
local how, runner, lines, count = ARGV[1], ARGV[2], {}, 0
for n = 1, #KEYS - BEFORE do
  lines[ARGV[4 + n]] = line(n)
end
if ARGV[4] == '1' then
  redis.call('HDEL', serving, runner)
end
local function put(run, ends)
  local _, whose, owner, name = read(run)
  if name and lines[name] and (runner == '' or runner == whose) then
    redis.call('ZREM', held, run)
    stand(lines[name], name, run, FRONT)
    -- Since nobody has had it.
    wait(run, how == 'l' and math.min(now, ends) or now, true)
    write(run, how, how == 'l' and whose or '-', owner, name)
    count = count + 1
  end
end
local late = runner == ''
local found = redis.call('ZRANGE', held, '-inf', late and ARGV[3] or '+inf', 'BYSCORE', 'LIMIT', 0,
                         late and 1000 or -1, 'WITHSCORES')
for n = 1, #found, 2 do
  put(found[n], tonumber(found[n + 1]))
end
if count > 0 then
  ring()
end
return count
