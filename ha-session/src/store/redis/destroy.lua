-- KEYS: session. ARGV: remembered ms, "1" to remember the end also where nothing is stored.
local key = KEYS[1]
local entry = look(key)
if entry.view == 'destroyed' or (entry.view == 'missing' and ARGV[2] ~= '1') then
  return answer(entry)
end
local version = math.max((entry.version or 0) + 1, now)
redis.call('DEL', key)
redis.call('HSET', key, 'f', '1', 'v', int(version), 's', '2', 'i', int(now), 'a', int(now), 'e', int(now))
redis.call('PEXPIREAT', key, int(now + tonumber(ARGV[1])))
return answer(look(key))
