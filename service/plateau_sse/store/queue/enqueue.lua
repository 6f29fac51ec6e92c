#!lua
-- Puts a run into the queue, if somebody is there to take it and the queue is not full.
--
-- KEYS  queue
-- ARGV  group, run id, agent, most that may wait, ms after which a runner counts as dead
-- Gives ok, full or no_runner.
local alive = false
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  for i = 1, #consumer, 2 do
    if consumer[i] == 'idle' and consumer[i + 1] < tonumber(ARGV[5]) then
      alive = true
    end
  end
end
if not alive then
  return 'no_runner'
end
local claimed = redis.call('XPENDING', KEYS[1], ARGV[1])[1]
if redis.call('XLEN', KEYS[1]) - claimed >= tonumber(ARGV[4]) then
  return 'full'
end
redis.call('XADD', KEYS[1], '*', 'run', ARGV[2], 'agent', ARGV[3])
return 'ok'
