"""glibc's allocator is told to keep what is freed, so that large bodies do not cost the kernel's time."""

import subprocess
import sys

CODE = """
import ctypes, sys
from tenantry.adapters.memory import keep_freed_memory

class Mallinfo2(ctypes.Structure):  # malloc.h; the fourth is the number of regions that are mapped
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

def mapped():
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    return mallinfo2().hblks

if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = mapped()
body = bytearray(3_000_000)
print(mapped() - before)
"""


def regions_for_a_body(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_large_buffer_is_not_mapped_for_itself() -> None:
    assert regions_for_a_body("kept") == 0
    assert regions_for_a_body("as it is") == 1
