"""Whether this engine takes new work: EngineCore says so, the API server asks for each request.

They are two processes, and a full disk is no place to leave a message. So it is a page of shared memory, made by the
first process of the engine and found by the others through the environment: one byte for each data-parallel rank.

A request that is refused gets 503 before anything was computed: load balancers and clients take it elsewhere.
"""

import atexit
import mmap
import os
import tempfile
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

__all__ = ["Gate"]

VARIABLE = "TENANTRY_GATE"
SLOTS = 1024

_SHARED = "/dev/shm"  # noqa: S108 - made by mkstemp; memory, where there is such a thing


class Gate:
    """The page. A gate that was just made is open."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SLOTS)

    @classmethod
    def shared(cls, environment: MutableMapping[str, str] = os.environ) -> "Gate":
        """Return the gate of this engine, making it if no parent did; raise OSError.

        An engine on another machine than its API server has a gate of its own, which nobody asks.
        """
        if found := environment.get(VARIABLE):
            with suppress(OSError, ValueError):
                return cls(Path(found))
        folder = _SHARED if os.access(_SHARED, os.W_OK) else None
        descriptor, name = tempfile.mkstemp(prefix="tenantry-gate-", dir=folder)
        try:
            os.write(descriptor, bytes(SLOTS))
        finally:
            os.close(descriptor)
        path, maker = Path(name), os.getpid()
        atexit.register(lambda: path.unlink(missing_ok=True) if os.getpid() == maker else None)
        environment[VARIABLE] = name
        return cls(path)

    def refuse(self, rank: int, refuse: bool) -> None:  # noqa: FBT001 - a state, not an option
        """Say whether a data-parallel rank refuses new work."""
        self._memory[rank % SLOTS] = refuse

    @property
    def refusing(self) -> bool:
        """Whether any does. A few hundred nanoseconds."""
        return self._memory.find(b"\x01") >= 0
