-- Commits to a copy while the truth cannot be written, and marks it.
-- KEYS: session. ARGV: journal, create, idle ms, absolute ms, most bytes, remembered ms, number of sets; then name and value of each set,
-- name of each remove.
local key = KEYS[1]
local idle, absolute, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local sets = tonumber(ARGV[7])
local entry = look(key)
if entry.view == 'missing' and ARGV[2] == '1' then
  entry = { view = 'live', version = 0, idle = now + idle, absolute = now + absolute, marks = '', born = true }
elseif entry.view ~= 'live' then
  return answer(entry)
end

local set, removed = {}, {}
local at = 8
for _ = 1, sets do
  set[ARGV[at]] = ARGV[at + 1]
  at = at + 2
end
for n = at, #ARGV do
  removed[ARGV[n]] = true
end
local bytes = 0
local flat = redis.call('HGETALL', key)
for n = 1, #flat, 2 do
  local name = string.sub(flat[n], 3)
  if string.sub(flat[n], 1, 2) == 'k:' and not set[name] and not removed[name] then
    local _, prefix = string.find(flat[n + 1], ':', 1, true)
    bytes = bytes + #name + #flat[n + 1] - prefix
  end
end
for name, value in pairs(set) do
  bytes = bytes + #name + #value
end
if bytes > most then
  return { 'too_large', '1', '0', '0', '0', int(bytes), '0', '', '', '0', '-1', '0', '0' }
end

local version = math.max(entry.version + 1, now)
local marks = {}
for journal, upto in string.gmatch(entry.marks, '([^:;]+):(%d+);') do
  if journal ~= ARGV[1] then
    marks[#marks + 1] = journal .. ':' .. upto .. ';'
  end
end
marks[#marks + 1] = ARGV[1] .. ':' .. int(version) .. ';'
for name, _ in pairs(removed) do
  redis.call('HDEL', key, 'k:' .. name)
end
for name, value in pairs(set) do
  redis.call('HSET', key, 'k:' .. name, int(version) .. ':' .. value)
end
local idle_until = math.min(now + idle, entry.absolute)
redis.call('HSET', key, 'f', '1', 'v', int(version), 's', '0', 'i', int(idle_until), 'a', int(entry.absolute), 'u', int(now), 'q',
  table.concat(marks), 'm', int(now))
if entry.born then
  redis.call('HSET', key, 'b', '1')
end
redis.call('PEXPIREAT', key, int(idle_until + tonumber(ARGV[6])))
return answer_with_values(key, look(key))
