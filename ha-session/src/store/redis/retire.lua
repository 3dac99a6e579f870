-- Remembers that an id was rotated away, without what it showed: that is for whoever holds the truth to say.
-- KEYS: session. ARGV: ms that it still answers, ms since then, remembered ms.
local key = KEYS[1]
local entry = look(key)
if entry.view == 'destroyed' or entry.view == 'rotated' or entry.view == 'superseded' or entry.view == 'format' then
  return answer(entry)
end
local ends = now + tonumber(ARGV[1])
redis.call('DEL', key)
redis.call('HSET', key, 'f', '1', 'v', int(math.max(entry.version or 0, 1)), 's', '1', 'i', int(ends), 'a', int(ends), 'e',
  int(now - tonumber(ARGV[2])))
redis.call('PEXPIREAT', key, int(ends + tonumber(ARGV[3])))
return answer(entry)
