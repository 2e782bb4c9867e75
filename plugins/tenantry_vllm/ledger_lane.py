"""Ships the spool to the ledger, for as long as it takes. One thread; `step` does one POST at most, and has no clock.

    batch of a folder --POST /records--> 200 {"new", "known"}      acknowledged
                                         400 with an "error"       sent in parts until the bad one is alone: parked
                                         anything else             again later: after first_retry_s, doubled each time

The first folder is this process's own. Those of dead processes below the same root are taken over, their records
shipped, and the folders deleted. All have their turn, so a long backlog holds up nothing that is new.

A batch whose outcome is unknown is sent again: the ledger knows each record by its id. Only an answer that counts the
whole batch acknowledges it, and only a refusal in the ledger's own words parks a record. What a proxy in between says,
or a server that is no ledger, does neither.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from msgspec import Struct
from tenantry.core.usage import MAX_BATCH, MAX_BATCH_BYTES, Refused, Taken

from tenantry_vllm.outbox import Item, batch_body
from tenantry_vllm.sidecar_http import Answer, TokenError
from tenantry_vllm.spool_folder import REFUSED, abandoned, write_whole
from tenantry_vllm.spool_format import Entry
from tenantry_vllm.spool_reader import SpoolReader

__all__ = ["RECORDS_PATH", "LaneLimits", "LedgerLane"]

RECORDS_PATH = "/records"

_OK, _TOO_LARGE = 200, 413
_REFUSALS = (400, _TOO_LARGE, 422)
_ENVELOPE_BYTES = 16


class LaneLimits(Struct, frozen=True, kw_only=True):
    """How fast to go. `poll_s` is how long new records wait for company; `adopted` bounds the folders taken over."""

    batch_records: int = MAX_BATCH
    batch_bytes: int = MAX_BATCH_BYTES
    poll_s: float = 0.5
    first_retry_s: float = 0.25
    longest_retry_s: float = 30.0
    look_around_s: float = 60.0
    tell_every_s: float = 600.0
    adopted: int = 4


class Transport(Protocol):
    """Posts batches to the ledger."""

    def post(self, body: bytes) -> Answer:
        """Return the answer; raise OSError, TokenError or http.client.HTTPException when there is none."""

    def close(self) -> None:
        """Close what is open."""

    def abort(self) -> None:
        """Wake a `post` in another thread."""


_Answer = TypeVar("_Answer", Taken, Refused)


class _Silence(Struct, frozen=True):
    """No answer: the kind of reason, and a sentence."""

    kind: str
    text: str


class _Parked(Struct, frozen=True, kw_only=True):
    """One line of a file in `refused/`."""

    refused_s: float
    status: int
    error: str
    record: msgspec.Raw


class LedgerLane:
    """Ships folders of a spool. `log` gets whole sentences; `wall_clock` is for the time in `refused/` files.

    `own` returns this process's folder, None before the disk has allowed one. `transport` is made anew for each try
    after a failure, so that a ledger which moved is found.
    """

    def __init__(
        self,
        root: Path,
        own: Callable[[], SpoolReader | None],
        transport: Callable[[], Transport],
        *,
        log: Callable[[str], None],
        limits: LaneLimits = LaneLimits(),  # noqa: B008 - frozen
        jitter: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.refused = 0
        self.trouble = ""
        self._root = root
        self._own = own
        self._make_transport = transport
        self._transport: Transport | None = None
        self._log = log
        self._limits = limits
        self._jitter = jitter
        self._clock = clock
        self._wall_clock = wall_clock
        self._mine: SpoolReader | None = None
        self._adopted: list[SpoolReader] = []
        self._looked_s = -math.inf
        self._turn = 0
        self._share: dict[SpoolReader, int] = {}
        self._failures = 0
        self._trouble_kind = ""
        self._told_s = -math.inf
        self._past_acknowledged = 0
        self._past_damaged = 0

    @property
    def acknowledged(self) -> int:
        """How many records the ledger took since the start, or knew."""
        return self._past_acknowledged + sum(reader.acknowledged for reader in self._readers()) - self.refused

    @property
    def damaged(self) -> int:
        """How many records were found destroyed since the start."""
        return self._past_damaged + sum(reader.damaged for reader in self._readers())

    @property
    def waiting_bytes(self) -> int:
        """How much waits on disk, in the folders that this process ships."""
        return sum(reader.waiting_bytes for reader in self._readers())

    @property
    def own_sequence(self) -> int:
        """The first record of this process's own folder that the ledger lacks; 0 before there is a folder."""
        mine = self._mine
        return mine.head.sequence if mine is not None else 0

    @property
    def oldest(self) -> tuple[bytes, ...]:
        """The first record of each folder that the ledger lacks."""
        heads = [reader.head.payload for reader in self._readers()]
        return tuple(head for head in heads if head is not None)

    def step(self) -> float:
        """Post one batch at most; return for how many seconds to wait before the next step."""
        self._mine = self._mine or self._own()
        self._look_around()
        readers = self._readers()
        room = self._limits.batch_bytes - _ENVELOPE_BYTES
        for offset in range(len(readers)):
            reader = readers[(self._turn + offset) % len(readers)]
            try:
                batch = reader.batch(self._share.get(reader, self._limits.batch_records), room)
                if batch:
                    self._turn = (self._turn + offset + 1) % len(readers)
                    return self._send(reader, batch)
            except OSError as error:
                self._later(
                    "disk", f"The usage spool {reader.folder.path} cannot be read, or refused/ not written: {error}."
                )
                continue
            if reader.finished:
                self._leave(reader)
        return self._limits.poll_s if not self._failures else self._wait_s()

    def abort(self) -> None:
        """Wake a `step` that waits for the ledger, from another thread."""
        if (transport := self._transport) is not None:
            transport.abort()

    def close(self) -> None:
        """Let go of all folders; what was not acknowledged waits in them for another process."""
        self._drop_transport()
        for reader in self._readers():
            self._leave(reader)

    def _readers(self) -> list[SpoolReader]:
        return [*([self._mine] if self._mine else []), *self._adopted]

    def _look_around(self) -> None:
        """Take over the folders of processes that are dead."""
        if self._clock() < self._looked_s + self._limits.look_around_s:
            return
        self._looked_s = self._clock()
        try:
            for folder in abandoned(self._root):
                if len(self._adopted) >= self._limits.adopted:
                    folder.close()
                    break
                try:
                    reader = SpoolReader(folder, log=self._log, clock=self._clock)
                except OSError:
                    folder.close()
                    raise
                self._adopted.append(reader)
                if waiting := reader.waiting_bytes:
                    self._log(
                        f"The process that wrote {folder.path} is gone: its last {waiting} bytes are shipped now."
                    )
        except OSError as error:
            self._log(f"The usage spool {self._root} cannot be searched for what dead processes left: {error}.")

    def _leave(self, reader: SpoolReader) -> None:
        """Close a folder, keeping what it counted."""
        reader.close()
        if reader in self._adopted:
            self._adopted.remove(reader)
            self._looked_s = -math.inf  # there may be others, for which there was no place
            self._past_acknowledged += reader.acknowledged
            self._past_damaged += reader.damaged
        self._share.pop(reader, None)

    def _send(self, reader: SpoolReader, batch: Sequence[Entry]) -> float:
        """Post; return for how long to wait."""
        answer = self._post(batch)
        if isinstance(answer, _Silence):
            return self._later(answer.kind, answer.text)
        reason = _read(answer.text, Refused) if answer.status in _REFUSALS else None
        if len(batch) > 1 and (reason is not None or answer.status == _TOO_LARGE):
            self._share[reader] = _before_bad(len(batch), reason)
            return 0.0
        if reason is not None:
            self._park(reader, batch[0], answer.status, reason.error)
        elif answer.status != _OK or (taken := _read(answer.text, Taken)) is None:
            return self._later(str(answer.status), _complaint(answer))
        elif taken.new + taken.known != len(batch):
            text = f"The ledger counts {taken.new} new and {taken.known} known of {len(batch)} records: is it a ledger?"
            return self._later("count", text)
        reader.acknowledge(len(batch))
        self._share[reader] = min(2 * len(batch), self._limits.batch_records)
        self._works()
        return 0.0

    def _post(self, batch: Sequence[Entry]) -> "Answer | _Silence":
        try:
            if self._transport is None:
                self._transport = self._make_transport()
            return self._transport.post(batch_body(tuple(Item(entry.payload, 0.0) for entry in batch)))
        except (OSError, TokenError) as error:
            return _Silence("unreached", f"The ledger was not reached: {error}.")
        except HTTPException as error:
            return _Silence("unreached", f"The ledger does not answer in HTTP: {type(error).__name__}.")
        except Exception as error:  # noqa: BLE001 - a bug must not end shipping; its text might quote a header
            return _Silence("bug", f"The ledger was not reached: {type(error).__name__}.")

    def _park(self, reader: SpoolReader, entry: Entry, status: int, reason: str) -> None:
        """Put a record that the ledger will never take where a person finds it. Raise OSError."""
        parked = _Parked(
            refused_s=self._wall_clock(), status=status, error=reason, record=msgspec.Raw(entry.payload)
        )  # fmt: skip
        path = self._root / REFUSED / f"{reader.folder.name}.jsonl"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # A line of its own, also behind one that broke off.
        write_whole(path, b"\n" * _broke_off(path) + msgspec.json.encode(parked) + b"\n", os.O_APPEND)
        self.refused += 1
        self._log(f"The ledger refuses a usage record for ever, it is kept in {path} and NOT billed: {reason}")

    def _later(self, kind: str, text: str) -> float:
        """Note a failure and log it, once for each kind and then now and again; return for how long to wait."""
        self._drop_transport()
        self._failures += 1
        self.trouble = text
        now_s = self._clock()
        if kind != self._trouble_kind or now_s >= self._told_s + self._limits.tell_every_s:
            self._trouble_kind, self._told_s = kind, now_s
            self._log(f"{text} Records wait on disk ({self.waiting_bytes} bytes); none is lost.")
        return self._wait_s()

    def _works(self) -> None:
        if self._failures:
            self._log("The ledger takes usage records again.")
        self._failures, self.trouble, self._trouble_kind = 0, "", ""

    def _wait_s(self) -> float:
        wait_s = self._limits.first_retry_s * 2.0 ** min(max(self._failures - 1, 0), 30)
        return min(wait_s, self._limits.longest_retry_s) * (1.0 - 0.5 * self._jitter())

    def _drop_transport(self) -> None:
        if self._transport is not None:
            with suppress(OSError):
                self._transport.close()
            self._transport = None


def _read(text: str, kind: type[_Answer]) -> _Answer | None:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError:
        return None


def _before_bad(records: int, refusal: Refused | None) -> int:
    """Return how many records to send next: those before the first bad one, it alone, or half to find it."""
    first = min(refusal.bad, default=-1) if refusal is not None else -1
    return max(1, first) if 0 <= first < records else records // 2


def _complaint(answer: Answer) -> str:
    """Return what is wrong, in a sentence; an unknown server's text may hold anything and is quoted short."""
    if answer.status == 401:
        return "The ledger refuses the token with 401: give both sides the same token file."
    if answer.status == 403:
        return "The ledger refuses this engine with 403: is its certificate among those allowed?"
    if answer.status in _REFUSALS or answer.status in {_OK, 404, 405}:
        return f"What answers {answer.status} at the ledger's URL is no ledger of this version: {answer.text[:80]!r}."
    return f"The ledger answers {answer.status}."


def _broke_off(path: Path) -> bool:
    """Return whether a file of lines ends in the middle of one."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    return False
