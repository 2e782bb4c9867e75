"""The second oracle's engine: acme's rows alone, as they would be without tenantry, asked with the client's own text.

Milvus Lite 2.5.1 ends at some texts that its grammar allows (none of those that tenantry prints), so this is an engine
process beside the attacked one, and is started again when it was lost.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from bench.attack_store import ALL, OURS, ROWS, SOLO, VARCHAR, Engine, refused
from tools import milvus_engines


class Lost(Exception):  # noqa: N818  # what happened to the engine, and an answer like others
    """The engine ended at this text."""


class Alone:
    """An engine with acme's rows alone."""

    def __init__(self, like: Engine, folder: Path, exits: contextlib.ExitStack) -> None:
        self._like, self._folder, self._exits = like, folder, exits
        self._lock = threading.Lock()  # when the engine ends, it is known at which text
        self._starts = 0
        self._engine = self._start()

    def keys(self, method: str, request: Any) -> list[Any] | None:
        """Return the primary keys that a Query or Search finds, None when refused; raise Lost when the engine ended."""
        with self._lock:
            try:
                answer = self._engine.send(method, request, None)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._engine = self._start()
                    raise Lost from None
                if refused(error) is None and error.code() is not grpc.StatusCode.UNKNOWN:
                    raise
                return None
        return self._like.keys(answer) if method == "Query" else self._like.found(answer)

    def _start(self) -> Engine:
        self._starts += 1
        running = self._exits.enter_context(milvus_engines.start(self._like.kind, self._folder / str(self._starts)))
        made = Engine(running, self._like.isolation, "")
        made.make(SOLO, None)
        rows = made.rows(OURS, "Insert", SOLO, range(ROWS))
        rows.fields_data.add(type=VARCHAR, field_name="tenant_id").scalars.string_data.data.extend([OURS] * ROWS)
        made.send("Insert", rows, None)
        made.until(lambda: _is_whole(made))
        return made


def _is_whole(made: Engine) -> bool:
    try:
        found = made.keys(made.send("Query", made.query(ALL, name=SOLO), None))
    except grpc.RpcError:  # Milvus Lite 2.5.1, at once after its start, now and then
        return False
    return found is not None and len(found) == ROWS


@contextlib.contextmanager
def alone(like: Engine, folder: Path) -> Iterator[Alone]:
    """Run an engine of the same kind with acme's rows alone."""
    with contextlib.ExitStack() as exits:
        yield Alone(like, folder, exits)
