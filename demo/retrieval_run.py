"""What was recorded of retrieval: the material of its part of the report. Times are Unix seconds."""

from msgspec import Struct

from demo.retrieval_wire import Asked, Attacked, Failed, Stored


class AskedCall(Struct, frozen=True, kw_only=True):
    """A question (its place in `QUESTIONS`) of a tenant, and what it was answered."""

    tenant: str
    question: int
    answer: Asked


class AttackCall(Struct, frozen=True, kw_only=True):
    """An attack by its name, and what became of it."""

    name: str
    answer: Attacked | Failed


class Verdict(Struct, frozen=True, kw_only=True):
    """What the sidecar's proof said of the store, and which engine that is."""

    standing: str
    version: str
    reasons: tuple[str, ...]


class Verified(Struct, frozen=True, kw_only=True):
    """What the sidecar counted: rows that it looked at, and answers that it withheld for a foreign one."""

    rows: int
    foreign: int


class RetrievalRun(Struct, frozen=True, kw_only=True):
    """Everything. `not_run` says why there is nothing, `error` what went wrong on the way; both are empty otherwise.

    `before` is what the engine held when both tenants had written, `after` what it held at the end.
    """

    not_run: str = ""
    error: str = ""
    engine: str = ""
    sdk: str = ""
    verdict: Verdict | None = None
    asked: tuple[AskedCall, ...] = ()
    attacks: tuple[AttackCall, ...] = ()
    attacks_known: int = 0
    before: tuple[Stored, ...] = ()
    after: tuple[Stored, ...] = ()
    verified: Verified | None = None
