"""What a crash left at the end of a spool, made good before anything is written behind it."""

import os
from collections.abc import Callable
from pathlib import Path

from tenantry_vllm.spool_folder import Folder
from tenantry_vllm.spool_format import HEADER_BYTES, MAX_FRAME_BYTES, FormatError, read_header, scan

_CHUNK_BYTES = 16 * MAX_FRAME_BYTES


def repair(folder: Folder, log: Callable[[str], None]) -> int:
    """Cut off a write that broke off at the end of the last segment; return the sequence of the next record.

    Only what is torn goes, which nobody was told is on disk. Damage stays where it is, for the reader to report. Raise
    OSError.
    """
    following = folder.read_cursor()
    for number in reversed(folder.segments()):
        path = folder.segment(number)
        found, end, torn = _end_of(path)
        if torn:
            log(f"{path} ended in a write that broke off: {torn} bytes were cut off, none of them acknowledged.")
            _cut(path, end)
        if end == 0:
            path.unlink()
        following = max(following, found)
        if end > HEADER_BYTES:
            break  # it has a record, or what was one: those before it have lower sequences
    return following


def _end_of(path: Path) -> tuple[int, int, int]:
    """Return the sequence behind a segment's last record, where its good part ends, and how much is torn behind it.

    All are 0 for a segment without a header, which has nothing.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEADER_BYTES)
        try:
            following = read_header(head)
        except FormatError:  # what can be found is found behind it
            following = 0
        if following is None:
            return 0, 0, 0
        at = HEADER_BYTES
        while True:
            file.seek(at)
            data = file.read(_CHUNK_BYTES)
            found = scan(data, ended=at + len(data) >= size)
            if found.entries:
                following = found.entries[-1].sequence + 1
            if found.damage and found.damage[-1][1] == len(data):
                following += 1  # at least one was here; that there is a gap tells the reader
            at += found.end
            if at + found.torn >= size:
                return following, at, found.torn


def _cut(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
