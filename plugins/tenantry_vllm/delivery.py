"""Where an engine's usage records go: at once to every sidecar, and through a spool on disk to the ledger.

    deliver(record) --+--> Shipper --> each sidecar    best effort, p99 <= 2 s: guard and quotas
                      +--> Spool --> LedgerLane --> ledger    none lost once on disk: bills

`deliver` costs a few microseconds and does no I/O, so a scheduler may call it between two steps. What is guaranteed
when is in docs/usage-delivery.md.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from tenantry.core.usage import Record

from tenantry_vllm.ledger_lane import RECORDS_PATH, LedgerLane
from tenantry_vllm.shipper import Shipper
from tenantry_vllm.sidecar_http import SidecarConnection, parse_url, resolve, token_from
from tenantry_vllm.sidecar_tls import TlsFiles
from tenantry_vllm.spool import Spool, limits_of
from tenantry_vllm.spool_health import DROP_REASONS, DiskRule, DiskState
from tenantry_vllm.spool_reader import SpoolReader

__all__ = ["Delivery", "DeliveryOptions", "DeliveryStatus"]

LEDGER_TIMEOUT_S = 30.0
"""For one batch: the ledger answers when its database has it for good."""

Token = Callable[[], str]


class DeliveryOptions(Struct, frozen=True, kw_only=True):
    """Where records go, and what happens when the disk is full.

    `engine` is the engine's id, unique to the start of its process, as in the records. `spool_dir` and `ledger_url` go
    together; without them only sidecars get records. `token_file` holds the usage token, which sidecars and ledger
    ask for. `tls` goes with https URLs, the only ones that may lead to other hosts.

    `disk_full`: `refuse` new work while records cannot be kept (`Delivery.accepting`), or go on and `count` those lost.
    `spool_bytes` bounds all that is below `spool_dir`.
    """

    engine: str
    sidecar_urls: tuple[str, ...] = ()
    ledger_url: str = ""
    spool_dir: Path | None = None
    token_file: Path | None = None
    tls: TlsFiles | None = None
    disk_full: DiskRule = "refuse"
    spool_bytes: int = 4 * 1024**3


class DeliveryStatus(Struct, frozen=True, kw_only=True):
    """How delivery stands. Counts are of records since the start of the process.

    `appended` were taken by the spool, `fsynced` are on disk for good, `acknowledged` are in the ledger (also those of
    earlier processes), `refused` the ledger will never take (parked in `refused/`), `damaged` could not be read back.
    `dropped` is by reason. `waiting_records` are this process's that the ledger does not have yet, `waiting_bytes` are
    on disk and not yet in the ledger, also those of dead processes (whose records nobody counted), `limit_bytes` the
    most there may be. `oldest_ended_s` is the Unix time of the oldest of all that wait. `sidecars` is
    `Shipper.counts()`. `disk` is `none` without a spool.
    """

    accepting: bool = True
    disk: DiskState | Literal["none"] = "none"
    trouble: str = ""
    appended: int = 0
    fsynced: int = 0
    acknowledged: int = 0
    refused: int = 0
    damaged: int = 0
    dropped: dict[str, int] = {}
    waiting_records: int = 0
    waiting_bytes: int = 0
    limit_bytes: int = 0
    oldest_ended_s: float | None = None
    sidecars: dict[str, int] = {}


class _Ended(Struct, frozen=True):
    """The member that all records have."""

    ended_s: float


class Delivery:
    """Delivers the records of one engine process. `log` gets whole sentences, one per change for the worse or better.

    The constructor raises ValueError or OSError about options that can never work.
    """

    def __init__(self, options: DeliveryOptions, *, log: Callable[[str], None]) -> None:
        token = _token(options)
        self._shipper = Shipper(options.sidecar_urls, token, log=log, tls=options.tls)
        self._ledger = None
        if options.spool_dir is not None:
            self._ledger = _Ledger(options, options.spool_dir, token, log)

    @property
    def accepting(self) -> bool:
        """Whether new work may begin. False only by the rule `refuse`, while its records could not be kept."""
        return self._ledger is None or self._ledger.spool.health.accepting

    def start(self) -> None:
        """Start the threads; raise SpoolError when the spool's folder cannot be used. Nothing else needs to be up."""
        if self._ledger is not None:
            self._ledger.start()
        self._shipper.start()

    def deliver(self, record: Record) -> None:
        """Take a record. Never raises, never waits for I/O; from any thread.

        One that is not valid goes to no sidecar, but to the ledger, whose refusal keeps it where a person finds it.
        """
        try:
            data = msgspec.json.encode(record)
        except (msgspec.MsgspecError, TypeError, ValueError):
            self._shipper.ship(record)  # which counts it as invalid, and says why, once
            return
        if self._ledger is not None:
            self._ledger.spool.append(data)
        self._shipper.ship_json(data)

    def status(self) -> DeliveryStatus:
        """Return how it stands; cheap enough for every scrape."""
        sidecars = self._shipper.counts()
        if self._ledger is None:
            return DeliveryStatus(sidecars=sidecars)
        spool, lane = self._ledger.spool, self._ledger.lane
        return DeliveryStatus(
            accepting=spool.health.accepting,
            disk=spool.health.state,
            trouble="; ".join(
                filter(None, (spool.health.trouble and f"The disk {spool.health.trouble}", lane.trouble))
            ),
            appended=spool.appended,
            fsynced=spool.fsynced,
            acknowledged=lane.acknowledged,
            refused=lane.refused,
            damaged=lane.damaged,
            dropped={reason: spool.health.dropped[reason] for reason in DROP_REASONS},
            waiting_records=max(0, spool.end - lane.own_sequence),
            waiting_bytes=lane.waiting_bytes,
            limit_bytes=spool.limit_bytes,
            oldest_ended_s=_oldest([*lane.oldest, *filter(None, (spool.unwritten,))]),
            sidecars=sidecars,
        )

    def counts(self) -> dict[str, int]:
        """Return the counts of `status` with names that are fit for metrics; those of sidecars as they are."""
        status = self.status()
        if self._ledger is None:
            return status.sidecars
        return status.sidecars | {
            "spool_appended": status.appended,
            "spool_fsynced": status.fsynced,
            "spool_dropped": sum(status.dropped.values()),
            "spool_damaged": status.damaged,
            "ledger_acknowledged": status.acknowledged,
            "ledger_refused": status.refused,
        }

    def stop(self, timeout_s: float = 1.0) -> None:
        """Put what was taken on disk, and send what can be sent, for `timeout_s` at most. The rest waits on disk."""
        deadline_s = time.monotonic() + timeout_s
        if self._ledger is not None:
            self._ledger.end(timeout_s)
        self._shipper.stop(max(0.0, deadline_s - time.monotonic()))
        if self._ledger is not None:
            self._ledger.join(max(0.0, deadline_s - time.monotonic()))


class _Ledger:
    """The way to the ledger: the spool, the lane that empties it, and the lane's thread."""

    def __init__(self, options: DeliveryOptions, root: Path, token: Token, log: Callable[[str], None]) -> None:
        endpoint = parse_url(options.ledger_url, path=RECORDS_PATH, whose="the ledger")
        if endpoint.tls and options.tls is None:
            raise ValueError(f"https://{endpoint.authority} needs files: a CA, a client certificate and its key")
        addresses = count()

        def connect() -> SidecarConnection:
            found = sorted(resolve(endpoint))
            if not found:
                raise OSError(f"the name {endpoint.host} has no address")
            return SidecarConnection(
                endpoint, found[next(addresses) % len(found)], token, options.tls, timeout_s=LEDGER_TIMEOUT_S
            )

        self.spool = Spool(root, options.engine, log=log, rule=options.disk_full, limits=limits_of(options.spool_bytes))
        jitter = random.random  # so that a fleet does not come back in step
        self.lane = LedgerLane(root, self._reader, connect, log=log, jitter=jitter)
        self._log = log
        self._ending = threading.Event()
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="usage-to-ledger", daemon=True)

    def start(self) -> None:
        self.spool.start()
        self._thread.start()

    def end(self, timeout_s: float) -> None:
        """Write what waits to disk, and begin to ship the last of it."""
        self.spool.stop(timeout_s)
        self._ending.set()

    def join(self, timeout_s: float) -> None:
        if self._thread.ident is None:
            return
        self._thread.join(timeout_s)
        self._given_up = True
        if self._thread.is_alive():
            self.lane.abort()
            self._thread.join(0.2)

    def _reader(self) -> SpoolReader | None:
        spool = self.spool
        if spool.folder is None:
            return None
        return SpoolReader(spool.folder, log=self._log, segments=spool.segments, released=spool.released)

    def _run(self) -> None:
        while not self._given_up:
            wait_s = self._step()
            if wait_s and self._ending.is_set():
                break  # all is shipped, or the ledger takes nothing now
            self._ending.wait(wait_s)
            self.spool.health.tell_stalled()
        self.lane.close()

    def _step(self) -> float:
        try:
            return self.lane.step()
        except Exception as error:  # noqa: BLE001 - a bug must not end shipping
            self._log(f"Shipping usage records to the ledger has met a bug: {type(error).__name__}. It goes on.")
            return 1.0


def _oldest(records: Iterable[bytes]) -> float | None:
    """Return when the oldest of some records was written."""
    ended = []
    for data in records:
        with suppress(msgspec.MsgspecError):
            ended.append(msgspec.json.decode(data, type=_Ended).ended_s)
    return min(ended, default=None)


def _token(options: DeliveryOptions) -> Token:
    """Check the options that belong together; return what reads the token."""
    if bool(options.ledger_url) != (options.spool_dir is not None):
        raise ValueError("spool_dir and ledger_url go together: the spool keeps what the ledger does not have yet")
    if not options.sidecar_urls and options.spool_dir is None:
        raise ValueError("records go nowhere: give sidecar_urls, or spool_dir and ledger_url")
    if options.token_file is None:
        raise ValueError("sidecars and ledger take records only with the usage token: give token_file")
    token = token_from(options.token_file)
    token()  # what is wrong with the file is said now, to whoever starts the engine
    return token
