-- The same rules as engine.rs, on this server's clock. Numbers are written with int(): Lua would write 1.7e+12.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function int(number)
  return string.format('%.0f', number)
end

-- What the session under a key is right now. Fields: f format, v version, s state (0 live, 1 rotated, 2 destroyed),
-- i idle until, a absolute until, e ended at, x last confirmed; "k:" and a name: "version:value".
local function look(key)
  local h = redis.call('HMGET', key, 'f', 'v', 's', 'i', 'a', 'e', 'x')
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
  }
  entry.ago = now - entry.ended
  if entry.format ~= 1 then
    entry.view = 'format'
  elseif entry.state == 2 then
    entry.view = 'destroyed'
  elseif entry.state == 1 and now >= entry.idle then
    entry.view = 'rotated'
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
    int((entry.absolute or now) - now), int(entry.ago or -1), int(now - (entry.confirmed or 0)),
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
