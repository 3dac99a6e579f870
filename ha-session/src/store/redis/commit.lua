-- KEYS: session, successor (the same key when the id stays), and with a claim the revocation and the list of whom it is claimed for.
-- ARGV: create, idle ms, absolute ms, grace ms, most bytes, remembered ms, number of sets, of removes, of expectations,
-- principal that it is claimed for ('' to leave it whose it is), device, ms since the request began (-1 not to ask), epoch that it drew,
-- 1 to keep nothing of what is there; then name and value of each set, name of each remove, and name, version and "1" to give way instead of
-- refusing of each expectation.
local key, successor = KEYS[1], KEYS[2]
local idle, absolute, grace = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local most, remembered = tonumber(ARGV[5]), tonumber(ARGV[6])
local sets, removes, expectations = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local claimant, device = ARGV[10], ARGV[11]

local entry = look(key)
if entry.view == 'missing' and ARGV[1] == '1' then
  entry = { view = 'live', format = 1, version = 0, idle = now + idle, absolute = now + absolute }
elseif entry.view ~= 'live' then
  return answer(entry)
end

-- All that is needed is read before anything is written: a script that fails half-way is not undone, and in a slot on the move it fails
-- at a key that is not here.
local afresh = ARGV[14] == '1'
if afresh then
  entry.absolute = now + absolute
end
local owner = claimant ~= '' and claimant or entry.principal or ''
local epoch = '0'
if claimant ~= '' then
  local r = redis.call('HMGET', KEYS[3], 'n', 't')
  epoch = r[1] or '0'
  local began, at = tonumber(ARGV[12]), tonumber(r[2])
  if began >= 0 and at and epoch ~= ARGV[13] and now - at <= began then
    entry.view = 'overtaken'
    return answer(entry)
  end
end
for _, name in ipairs({ owner, entry.principal or '' }) do
  if name ~= '' then
    redis.call('EXISTS', base(successor) .. 'l:' .. name)
  end
end

local at = 15
local sizes, set, removed = {}, {}, {}
for _ = 1, sets do
  set[ARGV[at]] = ARGV[at + 1]
  at = at + 2
end
for _ = 1, removes do
  removed[ARGV[at]] = true
  at = at + 1
end

local values = {}
local flat = afresh and {} or redis.call('HGETALL', key)
for n = 1, #flat, 2 do
  if string.sub(flat[n], 1, 2) == 'k:' then
    values[string.sub(flat[n], 3)] = flat[n + 1]
  end
end

local conflicts = {}
for _ = 1, expectations do
  local stored = values[ARGV[at]]
  local seen = stored and string.match(stored, '^(%d+):') or '0'
  if seen ~= ARGV[at + 1] then
    if ARGV[at + 2] == '1' then
      set[ARGV[at]] = nil
      removed[ARGV[at]] = nil
    else
      conflicts[#conflicts + 1] = ARGV[at]
    end
  end
  at = at + 3
end
if #conflicts > 0 then
  entry.view = 'conflict'
  local out = answer(entry)
  for _, name in ipairs(conflicts) do
    out[#out + 1] = name
    out[#out + 1] = ''
  end
  return out
end

local version = math.max(entry.version + 1, now)
local next_values = {}
local bytes = 0
for name, stored in pairs(values) do
  if not set[name] and not removed[name] then
    next_values[name] = stored
    local _, prefix = string.find(stored, ':', 1, true)
    bytes = bytes + #name + #stored - prefix
  end
end
for name, value in pairs(set) do
  next_values[name] = int(version) .. ':' .. value
  bytes = bytes + #name + #value
end
if bytes > most then
  return { 'too_large', '1', '0', '0', '0', int(bytes), '0', '', '', '0', '-1', '0', '0' }
end

local idle_until = math.min(now + idle, entry.absolute)
if afresh then
  redis.call('DEL', key)
end
if successor ~= key then
  local ends = math.min(entry.idle, now + grace)
  redis.call('HSET', key, 's', '1', 'e', int(now), 'i', int(ends), 'v', int(version), 'z',
    string.match(successor, '{(%x+)}') .. ':' .. hash_of(successor))
  redis.call('PEXPIREAT', key, int(ends + remembered))
  for name, stored in pairs(next_values) do
    redis.call('HSET', successor, 'k:' .. name, stored)
  end
else
  for name, _ in pairs(removed) do
    redis.call('HDEL', key, 'k:' .. name)
  end
  for name, _ in pairs(set) do
    redis.call('HSET', key, 'k:' .. name, next_values[name])
  end
end
redis.call('HSET', successor, 'f', '1', 'v', int(version), 's', '0', 'i', int(idle_until), 'a', int(entry.absolute), 'x',
  int(now), 'u', int(now))
if claimant ~= '' then
  redis.call('HSET', successor, 'p', claimant, 'n', epoch, 'd', device, 'c', int(now))
elseif successor ~= key and entry.principal and entry.principal ~= '' then
  redis.call('HSET', successor, 'p', entry.principal, 'n', int(entry.epoch), 'd', entry.device, 'c', int(entry.claimed))
end
if claimant ~= '' or successor ~= key then
  if entry.principal ~= owner or successor ~= key then
    unlist(key, entry)
  end
  if owner ~= '' then
    list(successor, owner, entry.absolute)
  end
end
redis.call('PEXPIREAT', successor, int(idle_until + remembered))
return answer_with_values(successor, look(successor))
