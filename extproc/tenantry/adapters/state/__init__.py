"""State that outlives a process and is shared by replicas: one interface, SQLite and Redis (or Valkey) behind it.

The core decides what a document says and how two of them merge; a store keeps documents by key and makes a
read-merge-write atomic. `sqlite.py` is one file on one machine, `redis.py` the fleet's.
"""

from tenantry.adapters.state.store import StateStore, StateUnavailableError

__all__ = ["StateStore", "StateUnavailableError"]
