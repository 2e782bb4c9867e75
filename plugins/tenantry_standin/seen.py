"""What arrived: the last requests, headers and all, so that a test can prove what did *not* arrive.

It shows credentials, as a test must look for them; the server shows it to loopback only. It never
holds a prompt: members that carry content, and any member too long to be a parameter, are kept as
their length in bytes.
"""

from collections import deque
from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct

CONTENT_MEMBERS = frozenset({"messages", "prompt", "input", "instructions"})
MAX_MEMBER_BYTES = 4096
MAX_REQUESTS = 1000

_members = msgspec.json.Decoder(dict[str, Raw])


class Seen(Struct, frozen=True, kw_only=True):
    """One request. Header names and values are the bytes received, as latin-1; `body` is None if not a JSON object."""

    number: int
    time_s: float
    method: str
    path: str
    headers: list[tuple[str, str]]
    body_bytes: int
    body: dict[str, object] | None


class SeenLog:
    """The last 1,000 requests, numbered from 1 without gaps."""

    def __init__(self) -> None:
        self._requests: deque[Seen] = deque(maxlen=MAX_REQUESTS)
        self.last = 0

    def add(
        self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, time_s: float
    ) -> None:
        """Note a request; `time_s` is Unix time."""
        self.last += 1
        self._requests.append(
            Seen(
                number=self.last,
                time_s=time_s,
                method=method,
                path=path,
                headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers],
                body_bytes=len(body),
                body=without_content(body),
            )
        )

    def after(self, number: int) -> list[Seen]:
        """Return the requests remembered with a greater number, oldest first."""
        return [seen for seen in self._requests if seen.number > number]


def without_content(body: bytes) -> dict[str, object] | None:
    """Return the top-level members, content as its length in bytes; None for what is no JSON object."""
    try:
        members = _members.decode(body)
        return {
            name: len(value) if name in CONTENT_MEMBERS or len(value) > MAX_MEMBER_BYTES else msgspec.json.decode(value)
            for name, value in ((name, bytes(raw)) for name, raw in members.items())
        }
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
