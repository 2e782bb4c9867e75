"""JSON logs on stderr that cannot hold a prompt, a key or a token.

Not by care at each call but by form: only the field names below pass, strings are cut, and
exceptions are reduced to their type and place. A new field has to be added here, by a reader of
this page.
"""

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

FIELDS = frozenset(
    {
        "event", "level", "timestamp",
        "address", "admin", "clusters", "code", "count", "digest", "document", "duration_ms", "error", "file",
        "generation", "grace_seconds", "kind", "model", "models", "notes", "open_exchanges", "operation", "pid",
        "problems", "reason", "rules", "seconds", "state", "status", "store", "tenant",
        "tenants", "transport", "version", "where",
    }
)  # fmt: skip
"""What a log line may hold."""

MAX_TEXT = 2000
MAX_ITEMS = 50

Logger = structlog.typing.FilteringBoundLogger


def configure(stream: TextIO = sys.stderr, level: str = "info") -> None:
    """Send structlog's lines to `stream`, one JSON object each."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            reduce_exception,
            only_known_fields,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def get() -> Logger:
    """Return the logger; without `configure`, structlog would print an exception's locals, keys among them."""
    if not structlog.is_configured():
        configure()
    logger: Logger = structlog.get_logger()
    return logger


def reduce_exception(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace `exc_info` by type and place: an exception's text may quote the request it choked on.

    The fields `error` and `where` are written here alone, so nobody can log such a text under them.
    """
    line.pop("error", None)
    line.pop("where", None)
    error = line.pop("exc_info", None)
    if error is True or isinstance(error, tuple):
        error = sys.exc_info()[1] if error is True else error[1]
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        line["error"] = type(error).__name__
        line["where"] = f"{frames[-1].name}:{frames[-1].lineno}" if frames else ""
    return line


def only_known_fields(_logger: Any, _method: str, line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop whatever is not on the list of fields; keep numbers, texts and lists of these, and cut what is long."""
    return {name: _bounded(value) for name, value in line.items() if name in FIELDS}


def _bounded(value: Any, items: int = MAX_ITEMS) -> Any:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and items:
        return [_bounded(item, items=0) for item in value[:items]]
    return type(value).__name__  # an object's repr may hold whatever it was made of
