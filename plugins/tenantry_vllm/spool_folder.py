"""The folders and files of spools: one folder for each engine process, below one root that engines may share.

    ROOT/ENGINE/lock                held (flock) by the process that writes or, after its death, by who ships the rest
    ROOT/ENGINE/NNNNNNNN.spool      segments (spool_format)
    ROOT/ENGINE/acknowledged        {"sequence": N}: the ledger has all records below N
    ROOT/refused/ENGINE.jsonl       records that the ledger will never take, and why
    ROOT/damaged/ENGINE-NNNNNNNN.spool   segments in which bytes were destroyed, after all else in them was shipped

A folder whose lock can be had belonged to a process that is dead. Locks are the kernel's, so nothing is left over by a
`kill -9`, and engines in several containers on one file system see each other's.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import msgspec
from msgspec import Struct

REFUSED, DAMAGED = "refused", "damaged"
LOCK, CURSOR = "lock", "acknowledged"

_SEGMENT = re.compile(r"(\d{8,16})\.spool")
_MAX_NAME = 100


class SpoolError(OSError):
    """The spool's folder cannot be used; the message says which and why."""


class _Cursor(Struct, frozen=True):
    sequence: int


class Disk:
    """What the spool does to a disk that may be full or broken. Every call may raise OSError; tests make it do so."""

    def create(self, path: Path) -> int:
        """Open a new, empty file for appending; return its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int) -> None:
        """Return when what was written is on the disk."""
        os.fdatasync(descriptor)

    def free_bytes(self, path: Path) -> int:
        """Return how much a process like this one may still write there."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


class Folder:
    """One engine's folder, locked by this process until `close` or `remove`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @property
    def name(self) -> str:
        """The engine's name, as far as a file may bear it."""
        return self.path.name

    def segment(self, number: int) -> Path:
        """Return a segment's path."""
        return self.path / f"{number:08d}.spool"

    def segments(self) -> dict[int, int]:
        """Return the segments by number, and the size of each in bytes."""
        found = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                if match := _SEGMENT.fullmatch(entry.name):
                    found[int(match[1])] = entry.stat().st_size
        return dict(sorted(found.items()))

    def read_cursor(self) -> int:
        """Return the first sequence that the ledger may lack: 0 without a cursor, or with one that is no good."""
        try:
            return max(0, msgspec.json.decode((self.path / CURSOR).read_bytes(), type=_Cursor).sequence)
        except (OSError, msgspec.MsgspecError):
            return 0  # all is sent again, which the ids make harmless

    def write_cursor(self, sequence: int) -> None:
        """Note that the ledger has all below `sequence`. After a crash it is the old cursor or the new one."""
        new = self.path / f"{CURSOR}.new"
        write_whole(new, msgspec.json.encode(_Cursor(sequence)), os.O_TRUNC)
        new.rename(self.path / CURSOR)
        sync_folder(self.path)

    def set_aside(self, number: int) -> Path:
        """Move a segment to the root's folder of damaged ones; return where it is now."""
        folder = self.path.parent / DAMAGED
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{self.name}-{number:08d}.spool"
        self.segment(number).rename(path)
        return path

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)

    def remove(self) -> None:
        """Let go, and delete the folder if it holds no segments."""
        with suppress(OSError):
            if not self.segments():
                for name in (CURSOR, f"{CURSOR}.new", LOCK):
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()  # refuses if another process came in between
        self.close()


def folder_name(engine: str) -> str:
    """Return the name of an engine's folder: its id where a file may be called so, else one that is as unique."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", engine)[:_MAX_NAME].lstrip(".") or "engine"
    if name == engine and name not in {REFUSED, DAMAGED}:
        return name
    return f"{name}-{blake2b(engine.encode(), digest_size=4).hexdigest()}"


def claim(path: Path) -> Folder | None:
    """Lock a folder, made if need be; None if another process has it. Raise OSError if it cannot be used."""
    while True:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # removed just now, by a process that had shipped all of it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (path / LOCK).stat().st_ino == os.fstat(lock).st_ino:
                return Folder(path, lock)
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            pass  # the lock of a folder that was removed meanwhile locks nothing
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def abandoned(root: Path) -> Iterator[Folder]:
    """Yield, locked, the folders whose processes are dead."""
    for path in sorted(root.iterdir()):
        if path.name not in {REFUSED, DAMAGED} and (path / LOCK).is_file() and (folder := claim(path)) is not None:
            yield folder


def bytes_below(root: Path, *, but: Path) -> int:
    """Return the size of all files below a root, without those of one folder in it."""
    total = 0
    for folder, names, files in os.walk(root):
        if Path(folder) == but:
            names.clear()
            continue
        for file in files:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(folder, file)).st_size  # noqa: PTH116, PTH118 - of thousands of files
    return total


def write_whole(path: Path, data: bytes, flags: int) -> None:
    """Write to a file, made if need be, and wait until the disk has it; `flags` are O_TRUNC or O_APPEND."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    try:
        Disk().write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the disk has a folder's names."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
