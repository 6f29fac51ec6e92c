-- Forgets the place of a run that has ended, while it waits or while the given runner has it. That
-- of a run which another has is left to it.
--
-- ARGV  run, runner or '', what its line is called
-- Gives 1 where there was one.
local run = ARGV[1]
local _, whose, owner = read(run)
local mine = redis.call('ZSCORE', line(1), run)
if ARGV[2] == '' and not mine or ARGV[2] ~= '' and ARGV[2] ~= whose then
  return 0
end
step_out(line(1), ARGV[3], run)
wait_no_more(run)
redis.call('ZREM', held, run)
redis.call('HDEL', places, run)
if mine and redis.call('EXISTS', since) == 0 then
  redis.call('DEL', turn, turns)
elseif mine and tonumber(mine) ~= FRONT and redis.call('ZSCORE', turns, owner or '') then
  -- Its owner has not had this turn.
  redis.call('ZINCRBY', turns, -1, owner)
end
return 1
