"""State that outlives a process and is shared by replicas: one interface, SQLite and Redis (or Valkey) behind it.

The core decides what a document says and how two of them merge; a store keeps documents by key and makes a
read-merge-write atomic. `sqlite.py` is one file on one machine, `redis.py` the fleet's.
"""

from pathlib import Path

from tenantry.adapters.state.store import AccountStore, StateStore, StateUnavailableError, Store

__all__ = ["AccountStore", "StateStore", "StateUnavailableError", "Store", "open_state"]


def open_state(where: str, *, durable: bool = True) -> Store:
    """Return the store at a URL (`redis://`, `rediss://`, `unix://`) or in a file; nothing is opened yet.

    Not `durable`: a file whose last changes a power cut may take back.

    Raises StateUnavailableError for a URL that no store can have.
    """
    if "://" not in where:
        from tenantry.adapters.state.sqlite import SqliteState  # noqa: PLC0415  # each store loads what it needs alone

        return SqliteState(Path(where), durable=durable)
    try:
        from tenantry.adapters.state.redis import RedisState  # noqa: PLC0415  # redis-py is an extra
    except ModuleNotFoundError as error:
        raise StateUnavailableError("state in a Redis needs redis-py: pip install 'tenantry[redis]'") from error
    return RedisState(where)
