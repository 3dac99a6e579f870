-- KEYS: list of a principal. ARGV: principal, what the keys of its sessions begin with.
local out = {}
for _, hash in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, 999)) do
  local entry = look(ARGV[2] .. hash)
  if entry.view == 'live' and entry.principal == ARGV[1] then
    out[#out + 1] = hash
    out[#out + 1] = entry.device
    out[#out + 1] = int(now - entry.claimed)
    out[#out + 1] = int(now - entry.used)
  end
end
return out
