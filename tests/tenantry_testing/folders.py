"""Where tests put databases whose every commit waits for the disk."""

import shutil
from pathlib import Path

_MEMORY = Path("/dev/shm")  # tmpfs of every Linux
_ROOM_BYTES = 512 * 1024 * 1024


def in_memory() -> str | None:
    """Return a folder in memory if there is one with room: a killed process loses nothing there, and fsync is free.

    None: the usual place for temporary files.
    """
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES:
        return str(_MEMORY)
    return None
