"""`core.quota.account` in Lua: one run of the script is one change, atomic among all who share the Redis.

An account is two hashes. `tenantry:account:{KEY}` has `content`, `at`, `month`, `used`, `reserved`, `told` (the shares,
each between commas) and `lease:OWNER`; `tenantry:account:{KEY}:open` has `OWNER AMOUNT POURED` by a reservation's id.
Both expire when nobody has asked for KEEP_MS, which is longer than a month: then nothing of them counts any more.

Time is the server's, so that replicas whose clocks differ keep one account; a test may give its own.
"""

from typing import Any

from tenantry.core.quota.account import Change, GiveBack, Limits, Reserve, Settle, Standing

KEEP_MS = 40 * 24 * 3600 * 1000

_OPERATIONS = {Reserve: "reserve", Settle: "settle", GiveBack: "give back"}

SCRIPT = """
-- KEYS: account, open. ARGV: now (empty: the server's), limit a minute, limit of the period (empty: none), shares as
-- `SHARE=MILLIUNITS,...`, operation, owner, lease, month and use that were seen, id, amount, 1 for only what is open,
-- milliseconds to live. Numbers stay below 2^53, where they are exact.
local account, open = KEYS[1], KEYS[2]
local now, minute, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local operation, owner, lease, id, amount = ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[10], tonumber(ARGV[11])
local MINUTE_MS = 60000
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function month_of(ms)
  -- The calendar's months from the days since 1970; a year begins in March, so that the odd day is its last.
  local days = math.floor(ms / 86400000) + 719468
  local era = math.floor(days / 146097)
  local day = days - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  local of_year = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local from_march = math.floor((5 * of_year + 2) / 153)
  return (year + era * 400) * 12 + from_march + 2
end

local a, leases, has_gone, gone = {}, {}, false, {}
local fields = redis.call('HGETALL', account)
for place = 1, #fields, 2 do
  local who = string.match(fields[place], '^lease:(.*)$')
  if not who then
    a[fields[place]] = fields[place + 1]
  elseif tonumber(fields[place + 1]) > now then
    leases[who] = true
  else
    has_gone = true
    gone[who] = true
  end
end
local content, at, month = tonumber(a.content or '0'), tonumber(a.at or '0'), tonumber(a.month or '0')
local used, reserved, told = tonumber(a.used or '0'), tonumber(a.reserved or '0'), a.told or ','

local function let_go(name, held)
  local held_amount, poured = string.match(held, ' (%d+) (%d+)$')
  reserved = math.max(0, reserved - tonumber(held_amount))
  redis.call('HDEL', open, name)
  return tonumber(poured)
end

if has_gone then
  local held, poured = redis.call('HGETALL', open), 0
  for place = 1, #held, 2 do
    if not leases[string.match(held[place + 1], '^[^ ]+')] then
      poured = poured + let_go(held[place], held[place + 1])
    end
  end
  content = math.max(0, content - poured * MINUTE_MS)
  for who in pairs(gone) do redis.call('HDEL', account, 'lease:' .. who) end
end
content = minute and math.max(0, content - math.max(0, now - at) * minute) or 0
at = math.max(at, now)
local this_month = month_of(now)
if this_month > month then month, used, told = this_month, 0, ',' end
if tonumber(ARGV[8]) == month then used = math.max(used, tonumber(ARGV[9])) end

local granted, crossed = 1, ''
local held = id ~= '' and redis.call('HGET', open, id)
if operation == 'reserve' and not held then
  local poured = minute and math.min(amount, minute) or 0
  if (period and used + reserved + amount > period)
    or (minute and content + poured * MINUTE_MS > minute * MINUTE_MS) then
    granted = 0
  else
    content, reserved = content + poured * MINUTE_MS, reserved + amount
    redis.call('HSET', open, id, string.format('%s %.0f %.0f', owner, amount, poured))
  end
elseif operation == 'settle' and (held or ARGV[12] ~= '1') then
  local poured = held and let_go(id, held) or 0
  if minute then content = math.max(0, content + (amount - poured) * MINUTE_MS) end
  used = used + amount
  for share, reached_at in string.gmatch(ARGV[4], '([^=,]+)=(%d+)') do
    if used >= tonumber(reached_at) and not string.find(told, ',' .. share .. ',', 1, true) then
      told, crossed = told .. share .. ',', crossed .. share .. ','
    end
  end
elseif operation == 'give back' and held then
  content = math.max(0, content - let_go(id, held) * MINUTE_MS)
end

local function whole(number) return string.format('%.0f', number) end
redis.call('HSET', account, 'content', whole(content), 'at', whole(at), 'month', whole(month), 'used', whole(used),
  'reserved', whole(reserved), 'told', told, 'lease:' .. owner, whole(now + lease))
redis.call('PEXPIRE', account, ARGV[13])
redis.call('PEXPIRE', open, ARGV[13])
return {granted, whole(content), whole(used), whole(reserved), whole(month), whole(now), crossed}
"""


def arguments(limits: Limits, change: Change, now_ms: int | None) -> list[Any]:
    """Return the script's ARGV."""
    shares = ",".join(f"{share!r}={at}" for share, at in limits.thresholds().items())
    amount = change.amount if isinstance(change, Reserve) else change.actual if isinstance(change, Settle) else 0
    return [
        "" if now_ms is None else now_ms, _or_none(limits.minute), _or_none(limits.period), shares,
        _OPERATIONS.get(type(change), "renew"), change.owner, change.lease_ms,
        change.seen.month if change.seen else "", change.seen.used if change.seen else "",
        change.id if isinstance(change, Reserve | Settle | GiveBack) else "", amount,
        int(isinstance(change, Settle) and change.only_open), KEEP_MS,
    ]  # fmt: skip


def standing(answer: list[Any]) -> Standing:
    """Return what the script answered."""
    granted, content, used, reserved, month, now_ms = map(int, answer[:6])
    crossed = tuple(float(share) for share in answer[6].split(b",") if share)
    return Standing(
        granted=bool(granted), content=content, used=used, reserved=reserved, month=month, now_ms=now_ms,
        crossed=crossed,
    )  # fmt: skip


def _or_none(limit: int | None) -> int | str:
    return "" if limit is None else limit
