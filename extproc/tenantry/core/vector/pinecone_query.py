"""Query strings: read as every reader reads them, and written again with all escaped that could mean something."""

import re
from collections.abc import Iterable

from tenantry.core.errors import BadRequestError

MAX_PARAMETERS = 1_100
"""A fetch of 1,000 ids has 1,001."""

_value = re.compile(r"(?:[!$'()*,\-./0-9:=?@A-Z_a-z~+]|%[0-9A-Fa-f]{2})*")
_escape = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Parameters:
    """The parameters of a request, taken one name at a time; what is left at the `end` is refused."""

    def __init__(self, query: str) -> None:
        self._values: dict[str, list[str]] = {}
        for place, part in enumerate(query.split("&") if query else (), 1):
            if place > MAX_PARAMETERS:
                raise BadRequestError("invalid_query", f"The query has more than {MAX_PARAMETERS} parameters.")
            name, separator, value = part.partition("=")
            # A name written with escapes is one for some readers only.
            if not separator or not name.isalpha() or not name.isascii():
                raise BadRequestError("invalid_query", f"Parameter {place} of the query is not NAME=VALUE.")
            self._values.setdefault(name, []).append(_decoded(value, name))

    def every(self, name: str) -> list[str]:
        """Return all values of a parameter that may be repeated."""
        return self._values.pop(name, [])

    def one(self, name: str) -> str | None:
        """Return the value of a parameter, None without one; refuse it twice, since readers differ on which counts."""
        values = self._values.pop(name, [])
        if len(values) > 1:
            raise BadRequestError("invalid_query", f"'{name}' stands in the query more than once.", param=name)
        return values[0] if values else None

    def end(self) -> None:
        """Refuse parameters that nobody asked for."""
        if self._values:
            raise BadRequestError("invalid_query", "The query has a parameter that is not known here.")


def written(parameters: Iterable[tuple[str, str]]) -> str:
    """Return a query string in which everything but letters, digits and `-._~` is escaped."""
    return "&".join(f"{name}={escaped(value)}" for name, value in parameters)


def escaped(value: str) -> str:
    """Return a text as it stands in a query or in a segment of a path."""
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in value.encode())


def unescaped(raw: bytes) -> bytes:
    """Return bytes with each escape of two hexadecimal digits replaced by what it stands for."""
    return _escape.sub(lambda found: bytes((int(found[1], 16),)), raw)


def _decoded(value: str, name: str) -> str:
    if not _value.fullmatch(value):
        raise BadRequestError("invalid_query", f"'{name}' is not escaped as it should be.", param=name)
    try:
        # HTML forms, and the SDKs of 2025, write a space as `+`.
        return unescaped(value.replace("+", " ").encode()).decode()
    except UnicodeDecodeError:
        raise BadRequestError("invalid_query", f"'{name}' is not UTF-8.", param=name) from None
