-- KEYS: session. ARGV: remembered ms, "1" to remember the end also where nothing is stored, "1" to end also what only answers
-- for the grace after a rotation (otherwise the answer names the successor), principal whose it has to be ('' for anybody's).
local key = KEYS[1]
local entry = look(key)
if ARGV[4] ~= '' and entry.view == 'destroyed' then
  entry.view = 'missing'
end
if entry.view == 'missing' and ARGV[4] ~= '' then
  return answer(entry)
end
if entry.view == 'destroyed' then
  -- A write as well: whoever waits for replicas waits for this one, not for what another link wrote.
  redis.call('PEXPIREAT', key, int(now + tonumber(ARGV[1])))
  return answer(entry)
end
if entry.view == 'missing' and ARGV[2] ~= '1' then
  return answer(entry)
end
if entry.successor and entry.successor ~= '' and ARGV[3] ~= '1' then
  return answer(entry)
end
if ARGV[4] ~= '' and (entry.view ~= 'live' or entry.principal ~= ARGV[4]) then
  entry.view = 'missing'
  return answer(entry)
end
local version = math.max((entry.version or 0) + 1, now)
unlist(key, entry)
redis.call('DEL', key)
redis.call('HSET', key, 'f', '1', 'v', int(version), 's', '2', 'i', int(now), 'a', int(now), 'e', int(now))
redis.call('PEXPIREAT', key, int(now + tonumber(ARGV[1])))
return answer(look(key))
