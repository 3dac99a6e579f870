-- KEYS: session. ARGV: idle ms, remembered ms.
local entry = look(KEYS[1])
if entry.view == 'live' then
  local idle_until = math.min(now + tonumber(ARGV[1]), entry.absolute)
  redis.call('HSET', KEYS[1], 'i', int(idle_until), 'u', int(now))
  redis.call('PEXPIREAT', KEYS[1], int(idle_until + tonumber(ARGV[2])))
end
return answer(entry)
