"""Shared state in a Redis (or Valkey), for a fleet.

What has to decide on the server is Lua: replacing a document unless it changed, visits, the log. A script runs whole or
not at all: it reads what could fail first, and where the memory is full or the server is a read-only replica it is
refused before it writes (but full memory does not keep old visits from being forgotten). Writes are never repeated by
themselves, as redis-py would by default (10 times): a script whose answer got lost may have run.

Not WATCH, MULTI and EXEC: that is a round trip more, a connection held while documents merge, and redis-py quotes a
command of a transaction that fails, hence the whole document, in the error's text.

Bounds on waiting: `timeout_s` for connecting and for each answer, twice that for a call as a whole, so a server that
hangs costs a second or two and never a stuck task. A connection that broke is made anew by the next call.

The server should not evict (`maxmemory-policy noeviction`, or `volatile-*`: documents and logs have no expiry): a store
that forgets is filled again by replicas that remember, but not by replicas that started meanwhile.

What is stored, with the prefix `tenantry:` and the key in braces, so that a cluster keeps a key's parts together:

| name | what |
|---|---|
| `tenantry:document:{KEY}` | string, the document |
| `tenantry:visits:{KEY}`, `tenantry:visits:{KEY}:old` | hashes by unit, as in `core.rollout.visits`; they expire |
| `tenantry:account:{KEY}`, `tenantry:account:{KEY}:open` | hashes, see `account_script`; they expire |
| `tenantry:log:{KEY}` | list of `ID ENTRY` |
| `tenantry:log:{KEY}:ids` | set of the ids in the list |
"""

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tenantry.adapters.state import account_script
from tenantry.adapters.state.store import MAX_ENTRIES, MAX_UNITS, Merge, StateUnavailableError, checked
from tenantry.core.quota.account import Change, Limits, Standing
from tenantry.core.rollout.budget import VISIT_SHARES
from tenantry.core.rollout.visits import Arrival, Visit

Result = TypeVar("Result")

PREFIX = "tenantry:"
TIMEOUT_SECONDS = 1.0
MAX_CONNECTIONS = 8
UPDATE_ATTEMPTS = 200
"""How often an update begins anew because another process was faster, unless its time is over before."""
UPDATE_PAUSE_SECONDS = 0.002
"""At most so long between them. A pause that grows would leave the field to those who never lose: of six processes that
did nothing but update, one lost 50 times in a row."""
BATCH = 1_000
"""Arrivals counted by one run of the script, about 3 ms in which the server does nothing else."""
URL_OPTIONS = {"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
"""What may stand behind the `?` of a URL; the rest of redis-py's options would undo the bounds above."""
MESSAGE_CHARACTERS = 300

REPLACE = """
-- KEYS: document. ARGV: SHA-1 of the document that was read (empty: there was none), the new one. Returns 1, or 0 when
-- another stands there by now.
local document = redis.call('GET', KEYS[1])
if (document and redis.sha1hex(document) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""

VISITS = """
-- `Visits` and `next_visit` of core/rollout/visits.py.
-- KEYS: young, old. ARGV: units that young holds at most, milliseconds to live, visit classes, then unit and flags of
-- each arrival (w: warming, p: has a past). Returns each visit's number, negative when an earlier one was put off.
local young, old = KEYS[1], KEYS[2]
local max_units, ttl_ms, classes, visits = tonumber(ARGV[1]), ARGV[2], {}, {}
for class in string.gmatch(ARGV[3], '%d+') do classes[tonumber(class)] = true end
local size = redis.call('HLEN', young)
for place = 4, #ARGV, 2 do
  local unit, flags = ARGV[place], ARGV[place + 1]
  local before, was_old = redis.call('HGET', young, unit), false
  if not before then
    before = redis.call('HGET', old, unit)
    was_old = before
    if size >= max_units then
      redis.call('RENAME', young, old)
      size, was_old = 0, false
    end
    size = size + 1
  end
  before = tonumber(before or '0')
  local number, was_put_off = math.abs(before) + 1, before < 0
  local cold = string.find(flags, 'w') or (number == 1 and string.find(flags, 'p'))
  local puts_off = cold and (number == 1 or (was_put_off and not classes[number]))
  redis.call('HSET', young, unit, string.format('%d', puts_off and -number or number))
  if was_old then redis.call('HDEL', old, unit) end
  visits[#visits + 1] = was_put_off and -number or number
end
redis.call('PEXPIRE', young, ttl_ms)
redis.call('PEXPIRE', old, ttl_ms)
return visits
"""

APPEND = """
-- KEYS: list, ids. ARGV: id, entry, entries that are kept. Returns 1, or 0 when the id stands there already.
local surplus = redis.call('LLEN', KEYS[1]) + 1 - tonumber(ARGV[3])
if redis.call('SADD', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[1] .. ' ' .. ARGV[2])
for _ = 1, surplus do
  redis.call('SREM', KEYS[2], string.match(redis.call('LPOP', KEYS[1]), '^[^ ]+'))
end
return 1
"""


class RedisState:
    """A StateStore at `url`: `redis://`, `rediss://` (TLS, verified) or `unix://PATH`, each with `[USER]:PASSWORD@`.

    The URL comes from a file or the environment, never from a command line, and no message repeats its password. `now`
    is the clock of accounts in a test; else it is the server's.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_SECONDS,
        max_units: int = MAX_UNITS,
        max_entries: int = MAX_ENTRIES,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._where, self._secrets = _read(url)
        self._timeout_s = timeout_s
        self._max_units = max_units
        self._max_entries = max_entries
        self._now = now
        self._updating = asyncio.Lock()
        self._closed = False
        # RESP2: all that is needed here, and whatever speaks for a Redis (proxies, forks, old releases) knows it.
        pool = BlockingConnectionPool.from_url(
            url, max_connections=MAX_CONNECTIONS, timeout=timeout_s, socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), protocol=2,
        )  # fmt: skip
        self._redis = Redis.from_pool(pool)
        self._replace = self._redis.register_script(REPLACE)
        self._visits = self._redis.register_script(VISITS)
        self._append = self._redis.register_script(APPEND)
        self._account = self._redis.register_script(account_script.SCRIPT)

    async def update(self, key: str, merge: Merge) -> bytes:
        """See StateStore."""
        name = self._name("document", key)

        async def work() -> bytes:
            # One update at a time of this process: tasks that get in each other's way would only begin anew.
            async with self._updating:
                for _ in range(UPDATE_ATTEMPTS):
                    before = cast("bytes | None", await self._redis.get(name))
                    # Evidence of a large fleet takes tens of milliseconds to merge.
                    after = await asyncio.to_thread(merge, before)
                    if after == before or await self._replace(keys=(name,), args=(_digest(before), after)):
                        return after
                    await asyncio.sleep(random.uniform(0.0, UPDATE_PAUSE_SECONDS))  # noqa: S311  # to part, not to hide
            raise StateUnavailableError(
                f"state at {self._where}: {key} was changed by others {UPDATE_ATTEMPTS} times in a row"
            )

        return await self._do(work)

    async def visits(self, key: str, arrivals: Sequence[Arrival], *, ttl_s: float) -> list[Visit]:
        """See StateStore. Atomic for each BATCH of arrivals."""
        young = self._name("visits", key)
        head = (self._max_units, max(1, round(ttl_s * 1e3)), ",".join(map(str, VISIT_SHARES)))

        async def work() -> list[Visit]:
            visits: list[Visit] = []
            for begin in range(0, len(arrivals), BATCH):
                arguments: list[Any] = [*head, *_arguments(arrivals[begin : begin + BATCH])]
                numbers = await self._visits(keys=(young, f"{young}:old"), args=arguments)
                visits += (Visit(number=abs(number), was_put_off=number < 0) for number in numbers)
            return visits

        return await self._do(work)

    async def forget(self, key: str) -> None:
        """See StateStore."""
        young = self._name("visits", key)
        await self._do(lambda: self._redis.unlink(young, f"{young}:old"))

    async def account(self, key: str, limits: Limits, change: Change) -> Standing:
        """See StateStore."""
        name, now = self._name("account", key), None if self._now is None else round(self._now() * 1e3)
        given = account_script.arguments(limits, change, now)
        return account_script.standing(await self._do(lambda: self._account(keys=(name, f"{name}:open"), args=given)))

    async def forget_account(self, key: str) -> None:
        """See AccountStore."""
        name = self._name("account", key)
        await self._do(lambda: self._redis.unlink(name, f"{name}:open"))

    async def append(self, key: str, entry_id: str, entry: bytes) -> bool:
        """See StateStore."""
        name = self._name("log", key)
        arguments = (checked(entry_id), entry, self._max_entries)
        return bool(await self._do(lambda: self._append(keys=(name, f"{name}:ids"), args=arguments)))

    async def entries(self, key: str, limit: int) -> list[bytes]:
        """See StateStore."""
        name = self._name("log", key)
        if limit <= 0:
            return []
        rows: list[bytes] = await self._do(lambda: cast("Awaitable[list[bytes]]", self._redis.lrange(name, -limit, -1)))
        return [row.partition(b" ")[2] for row in rows]

    async def close(self) -> None:
        """See StateStore."""
        self._closed = True
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._redis.aclose()

    def _name(self, kind: str, key: str) -> str:
        return f"{PREFIX}{kind}:{{{checked(key)}}}"

    async def _do(self, work: Callable[[], Awaitable[Result]]) -> Result:
        if self._closed:
            raise StateUnavailableError(f"state at {self._where}: was closed")
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                return await work()
        except TimeoutError:
            reason = f"neither an answer nor a turn within {2 * self._timeout_s:g} s"
        except (RedisError, OSError) as error:
            reason = self._reason(error)
        # Raised here, without the cause: a server may repeat what it was sent (AUTH and its arguments, too).
        raise StateUnavailableError(f"state at {self._where}: {reason}")

    def _reason(self, error: Exception) -> str:
        text = str(error) or type(error).__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = "".join(letter if letter.isprintable() else " " for letter in text)[:MESSAGE_CHARACTERS]
        advice = next((advice for sign, advice in _ADVICE if sign in text), None)
        return f"{text}; {advice}" if advice else text


_ADVICE = (
    ("maxmemory", "give it more memory, or find what fills it: state needs little"),
    ("read only replica", "name the primary in the URL"),
    ("WRONGPASS", "the URL's user or password is wrong"),
    ("invalid username-password", "the URL's user or password is wrong"),
    ("Authentication required", "the URL names no password"),
    ("WRONGTYPE", f"another program uses keys that begin with {PREFIX}; give tenantry a database of its own"),
)


def _digest(document: bytes | None) -> str:
    return "" if document is None else hashlib.sha1(document, usedforsecurity=False).hexdigest()


def _arguments(arrivals: Sequence[Arrival]) -> list[str]:
    arguments = []
    for arrival in arrivals:
        arguments += [arrival.unit, "w" * arrival.warming + "p" * arrival.has_past]
    return arguments


def _read(url: str) -> tuple[str, tuple[str, ...]]:
    """Return what of a URL may be shown, and what may not. Raises StateUnavailableError, without repeating the URL.

    A password with a raw `/`, `?` or `#` ends the host's part early, and what follows would be shown as a host or path.
    """
    scheme = url.partition("://")[0]
    if scheme not in {"redis", "rediss", "unix"}:
        raise StateUnavailableError("a state URL begins with redis://, rediss:// or unix://")
    try:
        parts = urlsplit(url)
        port = parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)) if parts.query else {}
    except ValueError:
        parts, port, options = None, None, {}
    if parts is None or "@" in f"{parts.path}?{parts.query}#{parts.fragment}" or parts.fragment:
        raise StateUnavailableError(
            f"the {scheme}:// URL of the state cannot be read; percent-encode the special characters of its password"
        )
    if unknown := sorted(options.keys() - URL_OPTIONS):
        raise StateUnavailableError(
            f"the {scheme}:// URL of the state has options other than {', '.join(sorted(URL_OPTIONS))}: "
            f"{', '.join(unknown)}"
        )
    database = options.get("db", parts.path.strip("/") if scheme != "unix" else "") or "0"
    if not database.isdecimal():
        raise StateUnavailableError(f"the {scheme}:// URL of the state names no database: its number is 0 or more")
    place = parts.path if scheme == "unix" else f"{parts.hostname or 'localhost'}:{port or 6379}/{database}"
    return f"{scheme}://{place}", tuple(filter(None, (parts.password, unquote(parts.password or ""))))
