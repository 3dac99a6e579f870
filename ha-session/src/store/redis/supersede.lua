-- Marks a session as gone on under a key of another slot, where it was put before, if it is still what was put there.
-- KEYS: session. ARGV: version that was put there, grace ms, remembered ms, tag and hash of the successor.
local key = KEYS[1]
local entry = look(key)
if entry.view ~= 'live' then
  return answer(entry)
end
if entry.version ~= tonumber(ARGV[1]) then
  entry.view = 'changed'
  return answer(entry)
end
local ends = math.min(entry.idle, now + tonumber(ARGV[2]))
unlist(key, entry)
redis.call('HSET', key, 's', '1', 'e', int(now), 'i', int(ends), 'v', int(math.max(entry.version + 1, now)), 'z', ARGV[4])
redis.call('PEXPIREAT', key, int(ends + tonumber(ARGV[3])))
return answer(entry)
