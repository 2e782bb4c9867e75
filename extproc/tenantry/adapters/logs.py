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
        "generation", "grace_seconds", "kind", "model", "models", "notes", "open_exchanges", "pid", "problems",
        "reason", "rules", "seconds", "state", "status", "tenant", "tenants", "transport", "version", "where",
    }
)  # fmt: skip
"""What a log line may hold."""

MAX_TEXT = 2000

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
    """Replace `exc_info` by type and place: an exception's text may quote the request it choked on."""
    error = line.pop("exc_info", None)
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        line["error"] = type(error).__name__
        line["where"] = f"{frames[-1].name}:{frames[-1].lineno}" if frames else ""
    return line


def only_known_fields(_logger: Any, _method: str, line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop whatever is not on the list of fields, and cut long texts."""
    return {
        name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in line.items() if name in FIELDS
    }
