"""Ships usage records to every sidecar, from daemon threads of its own; serving neither waits for it nor fails by it.

Each URL has a thread that resolves its name again and again; each address behind it has an outbox and a thread that
posts. So a sidecar that is down, hangs or refuses delays no other. `ship` encodes a record once and queues it
everywhere: a few microseconds under a lock that no I/O is done with.

A sidecar that appears (scaled up, restarted elsewhere, a name that had no address yet) is given the records of the last
`max_age_s` as well: the requests that it has served itself meanwhile are among them, and it would take a mirrored copy
without a record for a failed one.
"""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial
from http.client import HTTPException
from typing import Protocol

import msgspec
from msgspec import Struct
from tenantry.core.usage import Record, read_record

from tenantry_vllm.outbox import DROP_REASONS, SHIPPED, Item, Limits, Outbox, Verdict, batch_body, verdict
from tenantry_vllm.sidecar_http import Answer, Endpoint, SidecarConnection, TokenError, parse_url, resolve
from tenantry_vllm.sidecar_tls import TlsError, TlsFiles

__all__ = ["Shipper"]

RESOLVE_EVERY_S = 5.0
STOP_TIMEOUT_S = 1.0

_TELL_AGAIN_S = 60.0


class Transport(Protocol):
    """Posts batches to one address."""

    def post(self, body: bytes) -> Answer:
        """Return the answer; raise OSError, TokenError or http.client.HTTPException when there is none."""

    def close(self) -> None:
        """Close what is open."""

    def abort(self) -> None:
        """Wake a `post` in another thread."""


Connect = Callable[[Endpoint, str, Callable[[], str], TlsFiles | None], Transport]
"""(endpoint, address, token, files for TLS) -> transport."""


class Shipper:
    """Sends records to all sidecars of some URLs. `log` gets whole sentences, one per change for the worse or better.

    `tls` goes with https URLs, which alone may lead to other hosts; the constructor raises ValueError about URLs that
    it cannot or may not ship to. The files of `tls` and the token need not be there yet: that is a trouble like others.

    `counts` are of records times sidecars: `shipped`, and those dropped by reason: `full`, `too_old`, `refused`,
    `stopped` (still queued when the shipper stopped or the address went). `invalid` are records that no sidecar would
    take, counted once.
    """

    def __init__(
        self,
        urls: Iterable[str],
        token: Callable[[], str],
        *,
        log: Callable[[str], None],
        tls: TlsFiles | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        resolve_every_s: float = RESOLVE_EVERY_S,
        resolve: Callable[[Endpoint], frozenset[str]] = resolve,
        connect: Connect = SidecarConnection,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints = tuple(dict.fromkeys(parse_url(url) for url in urls))
        self._tls = tls
        if secure := [endpoint.authority for endpoint in self._endpoints if endpoint.tls and tls is None]:
            raise ValueError(f"https://{secure[0]} needs files: a CA, a client certificate and its key")
        self._token = token
        self._log = log
        self._limits = limits
        self._resolve_every_s = resolve_every_s
        self._resolve = resolve
        self._connect = connect
        self._clock = clock
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._recent: deque[Item] = deque(maxlen=limits.waiting_records)
        self._lanes: dict[tuple[Endpoint, str], _Lane] = {}
        self._past: Counter[str] = Counter()
        self._complained_invalid = False

    def start(self) -> None:
        """Start the threads. Returns at once: nothing needs to be up."""
        for endpoint in self._endpoints:
            _thread(partial(self._watch, endpoint), f"usage-names-{endpoint.host}").start()

    def ship(self, record: Record) -> None:
        """Queue a record for every sidecar. Never raises, never waits for I/O; from any thread."""
        try:
            data = msgspec.json.encode(record)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            self._invalid(error)
        else:
            self.ship_json(data)

    def ship_json(self, data: bytes) -> None:
        """Queue a record that is JSON already, as `ship` does."""
        try:
            read_record(data)  # a Struct checks nothing when built, and one bad record spoils its whole batch
        except (msgspec.MsgspecError, ValueError) as error:
            self._invalid(error)
            return
        item = Item(data, self._clock())
        with self._lock:
            if self._stopping.is_set():
                self._past["stopped"] += 1
                return
            self._remember(item)
            for lane in self._lanes.values():
                if lane.outbox.add(item):
                    lane.changed.notify()

    def counts(self) -> dict[str, int]:
        """Return what was shipped and what was dropped since the start, every name present."""
        with self._lock:
            total = Counter(self._past)
            for lane in self._lanes.values():
                total.update(lane.outbox.counts)
        return {name: total[name] for name in (SHIPPED, *DROP_REASONS, "invalid")}

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Post what waits, for `timeout_s` at most; drop and count the rest. May be called twice."""
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            self._stopping.set()
            lanes = tuple(self._lanes.values())
            for lane in lanes:
                lane.outbox.close()
                lane.changed.notify()
        for lane in lanes:
            lane.thread.join(max(0.0, deadline_s - time.monotonic()))
        with self._lock:
            for lane in lanes:
                lane.outbox.abandon()
        for lane in lanes:
            if lane.thread.is_alive():
                lane.transport.abort()
                lane.thread.join(0.1)

    def _watch(self, endpoint: Endpoint) -> None:
        """Keep a lane for each address behind a name."""
        complained = False
        while not self._stopping.is_set():
            try:
                self._set_addresses(endpoint, self._resolve(endpoint))
                complained = False
            except (OSError, UnicodeError) as error:  # the addresses known so far stay
                if not complained:
                    self._log(f"The name of the sidecars at {endpoint.authority} has no address: {error}.")
                complained = True
            self._stopping.wait(self._resolve_every_s)

    def _set_addresses(self, endpoint: Endpoint, addresses: frozenset[str]) -> None:
        with self._lock:
            if self._stopping.is_set() or not addresses:
                return
            for key in [key for key in self._lanes if key[0] == endpoint and key[1] not in addresses]:
                gone = self._lanes.pop(key)
                gone.outbox.abandon()
                self._past.update(gone.outbox.counts)
                gone.changed.notify()
            for address in sorted(addresses):
                if (endpoint, address) not in self._lanes:
                    self._lanes[endpoint, address] = self._open_lane(endpoint, address)

    def _open_lane(self, endpoint: Endpoint, address: str) -> "_Lane":
        lane = _Lane(
            name=endpoint.authority if endpoint.host == address else f"{endpoint.authority} ({address})",
            outbox=Outbox(self._limits),
            transport=self._connect(endpoint, address, self._token, self._tls),
            lock=self._lock,
            log=self._log,
            clock=self._clock,
        )
        for item in self._recent:
            lane.outbox.add(item)
        lane.thread.start()
        return lane

    def _remember(self, item: Item) -> None:
        self._recent.append(item)
        while self._recent[0].added_s < item.added_s - self._limits.max_age_s:
            self._recent.popleft()

    def _invalid(self, error: Exception) -> None:
        with self._lock:
            self._past["invalid"] += 1
            first, self._complained_invalid = not self._complained_invalid, True
        if first:
            self._log(f"A usage record was not shipped, as no sidecar would take it: {error}. Said once.")


class _Trouble(Struct, frozen=True):
    """Why a sidecar does not take records: the kind, and the end of a sentence about the sidecar."""

    kind: str
    text: str


class _Lane:
    """One sidecar: its outbox, its connection, its thread. The lock is the shipper's; I/O is done without it."""

    def __init__(
        self,
        *,
        name: str,
        outbox: Outbox,
        transport: Transport,
        lock: threading.Lock,
        log: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.outbox = outbox
        self.transport = transport
        self.changed = threading.Condition(lock)
        self.thread = _thread(self._run, f"usage-to-{name}")
        self._name = name
        self._log = log
        self._clock = clock
        self._trouble: _Trouble | None = None
        self._told_s: dict[str, float] = {}

    def _run(self) -> None:
        while batch := self._next_batch():
            what, trouble = self._post(batch_body(batch))
            with self.changed:  # abandoned meanwhile: the batch in flight is empty by now, and counted
                if what is Verdict.TAKEN:
                    self.outbox.taken()
                elif what is Verdict.NEVER:
                    self.outbox.never()
                else:
                    self.outbox.later(self._clock())
            self._tell(trouble, self._clock())
        self.transport.close()

    def _next_batch(self) -> tuple[Item, ...]:
        """Wait for a batch; empty when the outbox is closed and has nothing left."""
        with self.changed:
            while True:
                due_s, now_s = self.outbox.due_s, self._clock()
                if due_s is not None and due_s <= now_s:
                    if batch := self.outbox.take(now_s):
                        return batch
                elif due_s is None and self.outbox.closed:
                    return ()
                else:
                    self.changed.wait(None if due_s is None else due_s - now_s)

    def _post(self, body: bytes) -> tuple[Verdict, _Trouble | None]:
        """Post; return what becomes of the batch, and what to complain about."""
        try:
            answer = self.transport.post(body)
        except TlsError as error:
            return Verdict.LATER, _Trouble("tls", f"was not reached: {error}")
        except (OSError, TokenError) as error:
            return Verdict.LATER, _Trouble("unreached", f"was not reached: {error}")
        except HTTPException as error:
            return Verdict.LATER, _Trouble("unreached", f"does not answer in HTTP: {type(error).__name__}")
        except Exception as error:  # noqa: BLE001 - a bug must not end shipping; its text might quote a header
            return Verdict.LATER, _Trouble("bug", f"was not reached: {type(error).__name__}")
        what, status = verdict(answer.status), answer.status
        if what is Verdict.TAKEN:
            return what, None
        if what is Verdict.NEVER:
            text = f"refuses usage records with {status}, are versions mixed? It says {answer.text[:200]!r}"
        elif status == 401:
            text = "refuses the token with 401: give both sides the same token file"
        elif status == 403:
            text = f"refuses this engine with 403, is it among its --allow-client-san? It says {answer.text[:200]!r}"
        else:
            text = f"answers {status} to usage records"
        return what, _Trouble(str(status), text)

    def _tell(self, trouble: _Trouble | None, now_s: float) -> None:
        """Log a change for the worse once, and the change for the better that follows it."""
        if trouble is None:
            if self._trouble is not None:
                self._log(f"The sidecar at {self._name} takes usage records again.")
            self._trouble = None
        elif self._trouble is None or self._trouble.kind != trouble.kind:
            if now_s < self._told_s.get(trouble.kind, -math.inf) + _TELL_AGAIN_S:
                return
            self._told_s[trouble.kind] = now_s
            self._trouble = trouble
            self._log(f"The sidecar at {self._name} {trouble.text}. Serving goes on; its rollout guard sees less.")


def _thread(target: Callable[[], None], name: str) -> threading.Thread:
    return threading.Thread(target=target, name=name, daemon=True)
