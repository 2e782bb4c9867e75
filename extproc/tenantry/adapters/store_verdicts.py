"""What was proven on this machine, in a file, so that a sidecar that starts again need not prove it again.

Only proofs that came out safe are kept: a refusal is looked at anew at each start. A file that cannot be read holds
nothing. Whoever may write in the state folder may also write this; it is made for the sidecar's user alone.
"""

import contextlib
import os
from pathlib import Path

import msgspec

from tenantry.adapters import logs

MAX_KEPT = 256


class _File(msgspec.Struct, frozen=True, kw_only=True):
    safe: dict[str, float] = {}


class VerdictFile:
    """Keys of proofs (`store_proofs.Found.key`) that came out safe, and when (Unix seconds)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def holds(self, key: str) -> bool:
        """Return whether this was proven safe."""
        return key in self._read()

    def keep(self, key: str, now: float) -> None:
        """Note that this was proven safe. A file that cannot be written only costs the next start a proof."""
        kept = self._read() | {key: now}
        newest = sorted(kept.items(), key=lambda entry: entry[1])[-MAX_KEPT:]
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(_File(safe=dict(newest))))
            beside.replace(self._path)
        except OSError as error:
            logs.get().warning("the verdict on a store was not kept", file=str(self._path), exc_info=error)
            with contextlib.suppress(OSError):
                beside.unlink()

    def _read(self) -> dict[str, float]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_File).safe
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            logs.get().warning("verdicts on stores were not read", file=str(self._path), exc_info=error)
            return {}
