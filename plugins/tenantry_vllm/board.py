"""How each process of an engine tells how it stands: files in one folder, for whoever answers `GET /metrics`.

    EngineCore (one a data-parallel rank) --+
    API servers (their own faults)        --+--> FOLDER/NAME.json --> the API server that is scraped (`metrics`)

They are several processes, and vLLM has no way back from EngineCore that ours could use. The folder is in memory where
there is such a thing, made by the first process of the engine and found by the others through the environment, as the
`gate` is. Nothing here may stop an engine or a scrape.
"""

import atexit
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from tenantry_vllm.delivery import DeliveryStatus
from tenantry_vllm.spool_folder import folder_name

__all__ = ["Board", "EngineStatus", "Teller"]

VARIABLE = "TENANTRY_BOARD"
MAX_FILES = 256
MAX_FILE_BYTES = 64 * 1024
TELL_EVERY_S = 1.0

_SHARED = "/dev/shm"  # noqa: S108 - made by mkdtemp; memory, where there is such a thing


_log = logging.getLogger("vllm.tenantry")


class EngineStatus(Struct, frozen=True, kw_only=True):
    """How metering stands in one process. `faults` is by hook; an API server delivers nothing."""

    model: str
    version: str
    engine: str
    faults: Mapping[str, int] = {}
    delivery: DeliveryStatus | None = None


class Board:
    """The folder. Several processes write to it, each to a file of its own; any may read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def shared(cls, environment: MutableMapping[str, str] = os.environ) -> "Board | None":
        """Return the board of this engine, made if no parent did; None, and a line in the log, if it cannot be made."""
        found = environment.get(VARIABLE)
        if found and Path(found).is_dir():
            return cls(Path(found))
        folder = _SHARED if os.access(_SHARED, os.W_OK) else None
        try:
            path, maker = Path(tempfile.mkdtemp(prefix="tenantry-board-", dir=folder)), os.getpid()
        except OSError as error:
            _log.error("/metrics will not have tenantry's figures (%s); serving and billing go on.", error)
            return None
        atexit.register(lambda: shutil.rmtree(path, ignore_errors=True) if os.getpid() == maker else None)
        environment[VARIABLE] = str(path)
        return cls(path)

    def write(self, engine: str, data: bytes) -> None:
        """Write an engine's status, as JSON: a reader sees the old or the new one. Raise OSError."""
        path = self._path(engine)
        new = path.with_suffix(".new")
        new.write_bytes(data)
        new.rename(path)

    def remove(self, engine: str) -> None:
        """Take an engine that has ended off the board. Raise OSError."""
        self._path(engine).unlink(missing_ok=True)

    def read(self) -> list[EngineStatus]:
        """Return what stands there, by the names of the files; what cannot be read is passed over."""
        found = []
        with suppress(OSError):
            for path in sorted(self._folder.glob("*.json"))[:MAX_FILES]:
                with suppress(OSError, msgspec.MsgspecError):
                    if path.stat().st_size <= MAX_FILE_BYTES:
                        found.append(msgspec.json.decode(path.read_bytes(), type=EngineStatus))
        return found

    def _path(self, engine: str) -> Path:
        return self._folder / f"{folder_name(engine)}.json"


class Teller:
    """Writes one process's status once a second at most, and only when it has changed. Never raises OSError.

    Without a board it does nothing.
    """

    def __init__(
        self, board: Board | None, status: Callable[[], EngineStatus], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._board = board
        self._status = status
        self._clock = clock
        self._next_s = float("-inf")
        self._written = b""
        self._failing = False

    def tell(self) -> None:
        """Write, if it is time to and there is news. What fails is tried again, and told once."""
        now_s = self._clock()
        if self._board is None or now_s < self._next_s:
            return
        self._next_s = now_s + TELL_EVERY_S
        status = self._status()
        data = msgspec.json.encode(status)
        if data == self._written:
            return
        try:
            self._board.write(status.engine, data)
        except OSError as error:
            if not self._failing:
                _log.error("/metrics cannot show how metering stands (%s); serving and billing go on.", error)
            self._failing = True
            return
        self._failing = False
        self._written = data

    def end(self) -> None:
        """Take it off the board."""
        if self._board is not None:
            with suppress(OSError):
                self._board.remove(self._status().engine)
