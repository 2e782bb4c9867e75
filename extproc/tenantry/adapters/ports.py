"""Free ports of this machine, for listeners whose port nobody chose.

The kernel's own choice (bind to port 0) is from the range that it also takes outgoing connections' ports from: between
the choice and the second bind, by another process, any connection may take it. It happened once in some thousand. So
ports come from below that range, where only listeners are, and a process never gives the same one twice.
"""

import contextlib
import errno
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_240
_TRIES = 1_000

_given: set[int] = set()
_chance = random.SystemRandom()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port of `host` that nobody listens on; raise OSError when `host` is none of this machine's."""
    for _ in range(_TRIES):
        port = _chance.randrange(_LOWEST, _end())
        if port in _given or not _is_free(host, port):
            continue
        _given.add(port)
        return port
    with socket.socket(_family(host)) as probe:
        probe.bind((host, 0))
        chosen: int = probe.getsockname()[1]
        return chosen


def _end() -> int:
    """Return where the range of outgoing connections begins: 32768 unless somebody set it."""
    with contextlib.suppress(OSError, ValueError):
        lowest = int(_RANGE.read_text().split()[0])
        if lowest > _LOWEST + _TRIES:
            return lowest
    return 32_768


def _is_free(host: str, port: int) -> bool:
    with socket.socket(_family(host)) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
