-- The same rules as engine.rs, on this server's clock. Numbers are written with int(): Lua would write 1.7e+12.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function int(number)
  return string.format('%.0f', number)
end

-- Where the sessions of the same slot tag are. A session of a principal has the principal's tag, so that what revokes it and the
-- list that it is in are in its own slot.
local function base(key)
  return string.match(key, '^(.*:{%x+}:)') or ''
end

local function hash_of(key)
  return string.match(key, '([^:]*)$')
end

-- What the session under a key is right now. Fields: f format, v version, s state (0 live, 1 rotated, 2 destroyed),
-- i idle until, a absolute until, e ended at, x last confirmed, u last used, z tag and hash of the successor, p principal, n its epoch
-- at the claim, d device, c claimed at, q journals that have what PostgreSQL lacks, each with the version up to which, m when that was last,
-- b '1' where PostgreSQL has never heard of it; "k:" and a name: "version:value".
local function look(key)
  local h = redis.call('HMGET', key, 'f', 'v', 's', 'i', 'a', 'e', 'x', 'z', 'p', 'n', 'd', 'c', 'u', 'q', 'm', 'b')
  if not h[2] then
    return { view = 'missing', ago = -1 }
  end
  local entry = {
    format = tonumber(h[1]) or 0,
    version = tonumber(h[2]),
    state = tonumber(h[3]),
    idle = tonumber(h[4]),
    absolute = tonumber(h[5]),
    ended = tonumber(h[6]) or 0,
    confirmed = tonumber(h[7]) or 0,
    successor = h[8] or '',
    principal = h[9] or '',
    epoch = tonumber(h[10]) or 0,
    device = h[11] or '',
    claimed = tonumber(h[12]) or 0,
    used = tonumber(h[13]) or 0,
    marks = h[14] or '',
    marked = tonumber(h[15]) or 0,
    born = h[16] == '1',
  }
  local newest = 0
  if entry.principal ~= '' then
    local r = redis.call('HMGET', base(key) .. 'r:' .. entry.principal, 'n', 't')
    newest = tonumber(r[1]) or 0
    entry.revoked = tonumber(r[2])
  end
  -- Where it goes on, while the old key still leads there.
  if entry.state ~= 1 or now >= entry.idle then
    entry.successor = ''
  end
  entry.ago = now - entry.ended
  if entry.format ~= 1 then
    entry.view = 'format'
  elseif entry.state == 2 then
    entry.view = 'destroyed'
  elseif entry.state == 1 and now >= entry.idle then
    entry.view = 'rotated'
  elseif entry.epoch < newest then
    entry.view = 'revoked'
    entry.ago = now - entry.revoked
  elseif now >= entry.idle then
    entry.view = 'expired'
    entry.ago = now - entry.idle
  elseif entry.state == 1 then
    entry.view = 'superseded'
  else
    entry.view = 'live'
  end
  return entry
end

local function answer(entry)
  return {
    entry.view, int(entry.format or 0), int(entry.version or 0), int((entry.idle or now) - now),
    int((entry.absolute or now) - now), int(entry.ago or -1), int(now - (entry.confirmed or 0)), entry.successor or '',
    entry.principal or '', int(entry.epoch or 0), int(entry.revoked and now - entry.revoked or -1),
    (entry.marks or '') ~= '' and now - entry.marked < 3600000 and '1' or '0', entry.born and '1' or '0',
  }
end

local function answer_with_values(key, entry)
  local out = answer(entry)
  local flat = redis.call('HGETALL', key)
  for n = 1, #flat, 2 do
    if string.sub(flat[n], 1, 2) == 'k:' then
      out[#out + 1] = string.sub(flat[n], 3)
      out[#out + 1] = flat[n + 1]
    end
  end
  return out
end

-- Takes a session out of the list of its principal.
local function unlist(key, entry)
  if entry.principal and entry.principal ~= '' then
    redis.call('ZREM', base(key) .. 'l:' .. entry.principal, hash_of(key))
  end
end

-- Puts a session into the list of its principal, which forgets those that are too old and all but the last thousand.
local function list(key, principal, absolute)
  local name = base(key) .. 'l:' .. principal
  redis.call('ZREMRANGEBYSCORE', name, '-inf', int(now))
  redis.call('ZADD', name, int(absolute), hash_of(key))
  redis.call('ZREMRANGEBYRANK', name, 0, -1001)
  if redis.call('PTTL', name) < absolute - now then
    redis.call('PEXPIREAT', name, int(absolute))
  end
end
