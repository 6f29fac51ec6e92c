-- Renews the leases that a runner still holds; a run that it has lost and nobody has taken is its
-- own again. It never takes one back that another has got.
--
-- ARGV  runner, ms of a lease, runs; the lines are theirs, one a run
-- Gives the runs that are not the runner's any more.
local ends, lost = now + ARGV[2], {}
for n = 1, #ARGV - 2 do
  local run = ARGV[2 + n]
  local _, runner, _, name = read(run)
  if runner ~= ARGV[1] then
    lost[#lost + 1] = run
  else
    if wait_no_more(run) == 1 then
      step_out(line(n), name, run)
    end
    redis.call('ZADD', held, ends, run)
  end
end
return lost
