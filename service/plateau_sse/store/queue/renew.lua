#!lua flags=allow-oom
-- Renews the leases that a runner still holds; it never takes one back that another has got.
--
-- KEYS  queue      ARGV  group, runner, entry ids
-- Gives the ids that the runner holds no more.
local lost = {}
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 0 then
    lost[#lost + 1] = ARGV[i]
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  end
end
return lost
