-- Ends a request that was granted and gives back what it did not use.
--
-- KEYS  as of acquire.lua
-- ARGV  lease, the second that it counts in, tokens to give back
--
-- Returns how many holders still knew it. One that has been settled, or whose lease ran out, is not
-- known, so settling twice is settling once.

local KEYS_EACH = 5
local lease, second, refund = ARGV[1], ARGV[2], tonumber(ARGV[3])
local settled = 0

for first = 1, #KEYS, KEYS_EACH do
  if redis.call('ZREM', KEYS[first + 2], lease) == 1 then
    settled = settled + 1
    local tokens = KEYS[first + 1]
    if refund ~= 0 and redis.call('HEXISTS', tokens, second) == 1 then
      if redis.call('HINCRBY', tokens, second, -refund) == 0 then
        redis.call('HDEL', tokens, second)
      end
    end
    for period = first + 3, first + 4 do
      if redis.call('EXISTS', KEYS[period]) == 1 then
        redis.call('DECRBY', KEYS[period], refund)
      end
    end
  end
end
return settled
