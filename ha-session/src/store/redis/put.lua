-- Keeps a copy of a session that is stored elsewhere, unless a newer one or its end is here already.
-- KEYS: session. ARGV: version, idle left ms, absolute left ms, remembered ms, principal ('' for nobody's), its epoch,
-- a journal that has been replayed ('' for none), up to which version, ms for which a mark holds; then name and "version:value" of each value.
local key = KEYS[1]
local version = tonumber(ARGV[1])
local entry = look(key)
if entry.view == 'destroyed' or entry.view == 'rotated' or entry.view == 'superseded' or entry.view == 'format' then
  return answer(entry)
end
if entry.view ~= 'missing' and entry.marks ~= '' and now - entry.marked < tonumber(ARGV[9]) then
  local left = {}
  for journal, upto in string.gmatch(entry.marks, '([^:;]+):(%d+);') do
    if journal ~= ARGV[7] or tonumber(upto) > tonumber(ARGV[8]) then
      left[#left + 1] = journal .. ':' .. upto .. ';'
    end
  end
  if #left > 0 then
    redis.call('HSET', key, 'q', table.concat(left))
    return answer(entry)
  end
elseif entry.view ~= 'missing' and entry.version > version then
  return answer(entry)
end
if entry.principal == ARGV[5] and entry.epoch and entry.epoch > tonumber(ARGV[6]) then
  return answer(entry)
end
local idle_until = now + tonumber(ARGV[2])
redis.call('DEL', key)
redis.call('HSET', key, 'f', '1', 'v', int(version), 's', '0', 'i', int(idle_until), 'a', int(now + tonumber(ARGV[3])), 'x',
  int(now), 'u', int(now))
if ARGV[5] ~= '' then
  redis.call('HSET', key, 'p', ARGV[5], 'n', ARGV[6])
end
for n = 10, #ARGV, 2 do
  redis.call('HSET', key, 'k:' .. ARGV[n], ARGV[n + 1])
end
redis.call('PEXPIREAT', key, int(idle_until + tonumber(ARGV[4])))
return answer(look(key))
