-- Keeps the lease of a request that still runs.
--
-- KEYS  the leases of each holder
-- ARGV  now in ms (0: this server's clock), lease, how long a lease lasts in ms

local now, lease_ms = tonumber(ARGV[1]), tonumber(ARGV[3])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
for _, leases in ipairs(KEYS) do
  redis.call('ZADD', leases, 'XX', now + lease_ms, ARGV[2])
  redis.call('PEXPIRE', leases, lease_ms)
end
