"""Where an engine's usage records go: at once to every sidecar, and through a spool on disk to the ledger.

    deliver(record) --+--> Shipper --> each sidecar    best effort, p99 <= 2 s: guard and quotas
                      +--> Spool --> LedgerLane --> ledger    none lost once on disk: bills

`deliver` costs a few microseconds and does no I/O, so a scheduler may call it between two steps. What is guaranteed
when is in docs/usage-delivery.md.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from msgspec import Struct
from tenantry.core.usage import Record

from tenantry_vllm.shipper import Shipper
from tenantry_vllm.sidecar_http import token_from
from tenantry_vllm.sidecar_tls import TlsFiles

__all__ = ["Delivery", "DeliveryOptions", "DeliveryStatus"]

DiskRule = Literal["refuse", "count"]
DiskState = Literal["none", "ok", "low", "full", "error"]


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
    `dropped` is by reason. `waiting_bytes` are on disk and not yet in the ledger. `sidecars` is `Shipper.counts()`.
    `disk` is `none` without a spool.
    """

    accepting: bool = True
    disk: DiskState = "none"
    trouble: str = ""
    appended: int = 0
    fsynced: int = 0
    acknowledged: int = 0
    refused: int = 0
    damaged: int = 0
    dropped: dict[str, int] = {}
    waiting_bytes: int = 0
    sidecars: dict[str, int] = {}


class Delivery:
    """Delivers the records of one engine process. `log` gets whole sentences, one per change for the worse or better.

    The constructor raises ValueError or OSError about options that can never work.
    """

    def __init__(self, options: DeliveryOptions, *, log: Callable[[str], None]) -> None:
        if not options.sidecar_urls and options.spool_dir is None:
            raise ValueError("records go nowhere: give sidecar_urls, or spool_dir and ledger_url")
        if options.token_file is None:
            raise ValueError("sidecars and ledger take records only with the usage token: give token_file")
        token = token_from(options.token_file)
        token()  # what is wrong with the file is said now, to whoever starts the engine
        self._shipper = Shipper(options.sidecar_urls, token, log=log, tls=options.tls)

    @property
    def accepting(self) -> bool:
        """Whether new work may begin. False only by the rule `refuse`, while its records could not be kept."""
        return True

    def start(self) -> None:
        """Start the threads; raise SpoolError when the spool's folder cannot be used. Nothing else needs to be up."""
        self._shipper.start()

    def deliver(self, record: Record) -> None:
        """Take a record. Never raises, never waits for I/O; from any thread."""
        self._shipper.ship(record)

    def status(self) -> DeliveryStatus:
        """Return how it stands; cheap enough for every scrape."""
        return DeliveryStatus(accepting=self.accepting, sidecars=self._shipper.counts())

    def stop(self, timeout_s: float = 1.0) -> None:
        """Put what was taken on disk, and send what can be sent, for `timeout_s` at most. The rest waits on disk."""
        self._shipper.stop(timeout_s)
