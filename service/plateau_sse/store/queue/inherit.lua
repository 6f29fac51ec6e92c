-- What a runner that has ended for certain held becomes another's, with leases that are new.
--
-- ARGV  runner, ms of a lease, the one that has ended
-- Gives {run, line, l, owner} of each.
local found = {}
for _, run in ipairs(redis.call('ZRANGE', held, 0, -1)) do
  local _, whose, owner, name = read(run)
  if whose == ARGV[3] then
    write(run, 'l', ARGV[1], owner, name)
    redis.call('ZADD', held, now + ARGV[2], run)
    found[#found + 1] = {run, name, 'l', owner}
  end
end
return found
