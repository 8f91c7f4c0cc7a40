-- Counts a request for all who have a limit on it, or for none where one has no room.
--
-- KEYS  for each holder: requests by second, tokens by second, leases, tokens of the day and of the
--       month
-- ARGV  now in ms (0: this server's clock), lease, how long a lease lasts in ms, tokens; then for
--       each holder its limits in requests and tokens a minute, concurrent requests, tokens a day
--       and tokens a month (-1: none)
--
-- Returns {"unknown"} where a holder's day or month is not known here yet. Else {granted, second}
-- and for each holder what it has used, the request included where it was granted: requests, wait,
-- reset, tokens, wait, reset, running, day, month; times in ms, a wait of -1 without end.

local LIFE_S = 61
local KEYS_EACH, LIMITS_EACH, LIMITS_AFTER = 5, 5, 4

local now, lease, lease_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local tokens = tonumber(ARGV[4])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local second = math.floor(now / 1000)
local holders = #KEYS / KEYS_EACH

local function key(holder, which) return KEYS[(holder - 1) * KEYS_EACH + which] end
local function limit(holder, which)
  return tonumber(ARGV[LIMITS_AFTER + (holder - 1) * LIMITS_EACH + which])
end

local function window(name, most, amount)
  local fields, buckets, total = redis.call('HGETALL', name), {}, 0
  for i = 1, #fields, 2 do
    local at, count = tonumber(fields[i]), tonumber(fields[i + 1])
    if at + LIFE_S <= now / 1000 then
      redis.call('HDEL', name, fields[i])
    else
      total = total + count
      buckets[#buckets + 1] = {at, count}
    end
  end
  table.sort(buckets, function(a, b) return a[1] < b[1] end)
  local wait, excess = 0, 0
  if most >= 0 then excess = total + amount - most end
  if excess > 0 then
    wait = -1
    for _, bucket in ipairs(buckets) do
      excess = excess - bucket[2]
      if excess <= 0 then
        wait = (bucket[1] + LIFE_S) * 1000 - now
        break
      end
    end
  end
  local reset = 0
  if #buckets > 0 then reset = (buckets[#buckets][1] + LIFE_S) * 1000 - now end
  return {total, wait, reset}
end

-- A lease's name ends with how many answers it counts as.
local function answers(name) return tonumber(string.match(name, '%*(%d+)$')) or 1 end

local function running(name)
  local sum = 0
  for _, each in ipairs(redis.call('ZRANGE', name, 0, -1)) do sum = sum + answers(each) end
  return sum
end

local function count(holder, asked)
  local requests_most, tokens_most = -1, -1
  if asked then requests_most, tokens_most = limit(holder, 1), limit(holder, 2) end
  local requests = window(key(holder, 1), requests_most, 1)
  local all = window(key(holder, 2), tokens_most, tokens)
  return {
    requests[1], requests[2], requests[3], all[1], all[2], all[3],
    running(key(holder, 3)),
    tonumber(redis.call('GET', key(holder, 4))),
    tonumber(redis.call('GET', key(holder, 5))),
  }
end

for holder = 1, holders do
  if redis.call('EXISTS', key(holder, 4), key(holder, 5)) < 2 then return {'unknown'} end
  -- What processes that died have left.
  redis.call('ZREMRANGEBYSCORE', key(holder, 3), '-inf', now)
end

-- Asked again after an answer that got lost, it has been granted already.
local until_ms = redis.call('ZSCORE', key(1, 3), lease)
local granted, counts = true, {}
if until_ms then
  second = math.floor((until_ms - lease_ms) / 1000)
else
  for holder = 1, holders do
    local used = count(holder, true)
    local running_most, day_most, month_most = limit(holder, 3), limit(holder, 4), limit(holder, 5)
    granted = granted and used[2] == 0 and used[5] == 0
      and (running_most < 0 or used[7] + answers(lease) <= running_most)
      and (day_most < 0 or used[8] + tokens <= day_most)
      and (month_most < 0 or used[9] + tokens <= month_most)
    counts[holder] = used
  end
  if granted then
    for holder = 1, holders do
      redis.call('HINCRBY', key(holder, 1), second, 1)
      redis.call('PEXPIRE', key(holder, 1), LIFE_S * 1000)
      if tokens > 0 then
        redis.call('HINCRBY', key(holder, 2), second, tokens)
        redis.call('PEXPIRE', key(holder, 2), LIFE_S * 1000)
      end
      redis.call('ZADD', key(holder, 3), now + lease_ms, lease)
      redis.call('PEXPIRE', key(holder, 3), lease_ms)
      redis.call('INCRBY', key(holder, 4), tokens)
      redis.call('INCRBY', key(holder, 5), tokens)
    end
  end
end

local reply = {granted and 1 or 0, second}
for holder = 1, holders do
  local used = counts[holder]
  if granted then used = count(holder, false) end
  for i = 1, #used do reply[#reply + 1] = used[i] end
end
return reply
