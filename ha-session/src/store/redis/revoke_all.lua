-- KEYS: revocation of a principal. ARGV: remembered ms, the least epoch, hash of the session to keep ('' for none), principal,
-- what the keys of its sessions begin with.
local kept = ''
local hash = ARGV[3]
for _ = 1, 16 do
  if hash == '' then
    break
  end
  local entry = look(ARGV[5] .. hash)
  if entry.view == 'live' then
    if entry.principal == ARGV[4] then
      kept = hash
    end
    break
  end
  hash = hash_of(entry.successor or '')
end
local last = tonumber(redis.call('HGET', KEYS[1], 'n') or '0')
local least = tonumber(ARGV[2])
local epoch = math.max(last + 1, now)
if least > 0 then
  epoch = math.max(last, least)
end
redis.call('HSET', KEYS[1], 'n', int(epoch), 't', int(now))
redis.call('PEXPIREAT', KEYS[1], int(now + tonumber(ARGV[1])))
if kept ~= '' then
  redis.call('HSET', ARGV[5] .. kept, 'n', int(epoch))
end
return { int(epoch) }
