-- What a web worker looks at. It changes nothing that counts, and yet is no reader: while writes
-- are refused nobody can renew a lease, and who looked then would see all of them run out.
--
-- ARGV  ms after which a runner is dead; ms that a run may wait; most of each; how often was looked
--       before: who looks again and again sees all that somebody had
-- Gives {ms, runners alive, lines of late leases, {run, line, how, since} of each that has waited
-- for too long, the same of those that wait and that somebody had: what was lost, and some of what
-- was handed back}.
local most, before = tonumber(ARGV[3]), tonumber(ARGV[4])
-- Of those that somebody had, in one look.
local SEEN = 2000
local function row(run, at)
  local how, _, _, name = read(run)
  return {run, name or '', how or 'n', at}
end
local overdue = {}
local rows = redis.call('ZRANGE', since, '-inf', now - ARGV[2], 'BYSCORE', 'WITHSCORES',
                        'LIMIT', 0, most)
for n = 1, #rows, 2 do
  overdue[#overdue + 1] = row(rows[n], rows[n + 1])
end
local again, others = {}, {}
local parts = math.max(1, math.ceil(redis.call('ZCARD', back) / SEEN))
local first = before % parts * SEEN
for _, run in ipairs(redis.call('ZRANGE', back, first, first + SEEN - 1)) do
  local at = redis.call('ZSCORE', since, run)
  local found = at and row(run, at)
  if not found then
    -- It waits no more, and a release that knows nothing of this has taken it.
    redis.call('ZREM', back, run)
  elseif found[3] ~= 'l' then
    others[#others + 1] = found
  elseif #again < most then
    again[#again + 1] = found
  end
end
local skip = math.floor(before / parts) * most
for n = 1, math.min(most, #others) do
  again[#again + 1] = others[(skip + n - 1) % #others + 1]
end
local alive = redis.call('ZRANGE', runners, now - ARGV[1], '+inf', 'BYSCORE')
return {now, alive, late(), overdue, again}
