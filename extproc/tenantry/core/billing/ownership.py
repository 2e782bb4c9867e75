"""Who pays for an attempt: given the records of one request, the owner of each. Pure, and the same in any order.

| record | owner |
|---|---|
| a mirrored copy | `mirror` |
| without a tenant | `unstamped` |
| of an attempt that failed in any of its sequences | `failed` |
| of a sequence that has not ended | `unfinished`, until its last record comes |
| of the attempt that served; of several, one that an engine measured, and of these the earliest | `tenant` |
| nobody served yet, or an engine crashed: of the last attempt, what has ended | `tenant` |
| nobody served: of the last attempt, if it was aborted | `tenant`: the client left, and pays for what was generated |
| of any other attempt | `failed`: another one made it useless |

The sequences of an attempt fail together: an answer of three choices of which one failed is no answer. They do not wait
for each other: a list of ten thousand prompts ends one by one, and to take all of them from the tenant whenever another
begins would write as many entries each time (one such request made the ledger quadratic). The ranks of a data-parallel
engine are engines of their own and share an attempt's sequences; so engines of which none has a sequence of another's
are one attempt.

What a sidecar reckoned (`models.NAME.usage`) stands in for an engine's record. Where an engine with the plugin reports
as well, the tenant pays for what was measured, and the reckoned figures are void: never both, never by chance.

Only attempts of one tenant are held against each other, so no request id, however it came about, moves a bill from one
to another.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

from tenantry.core import estimates, response_usage
from tenantry.core.billing.tallies import Owner

RECKONED = frozenset({estimates.ENGINE, response_usage.ENGINE})
"""The engines in whose names sidecars make records of the access log and of responses."""

_State = Literal["failed", "unfinished", "aborted", "served"]
_Attempt = tuple[int, str]
"""Its number, and its engine (the first of several, in order): two that do the same work are two attempts."""


class Contender(Protocol):
    """What of a request's record decides who pays. A `UsageRecord` is one, and so is a ledger's row."""

    @property
    def id(self) -> str:
        """The record's id."""

    @property
    def tenant(self) -> str:
        """Whose request it is."""

    @property
    def engine(self) -> str:
        """The engine of the attempt."""

    @property
    def attempt(self) -> int:
        """The attempt's number, from 1."""

    @property
    def mirror(self) -> bool:
        """Whether it is the copy of a mirrored request."""

    @property
    def sequence(self) -> int:
        """Which of the attempt's answers."""

    @property
    def finish_reason(self) -> str | None:
        """How the sequence ended; None for a part while it goes on."""


def contends(record: Contender) -> bool:
    """Return whether other records of the request have a say in who pays for this one."""
    return bool(record.tenant) and not record.mirror


def owners(records: Iterable[Contender]) -> dict[str, Owner]:
    """Return the owner of each of a request's records, by the record's id."""
    found: dict[str, Owner] = {}
    contests: dict[str, list[Contender]] = defaultdict(list)
    for record in records:
        if contends(record):
            contests[record.tenant].append(record)
        else:
            found[record.id] = "mirror" if record.mirror else "unstamped"
    for contest in contests.values():
        attempts = _attempts(contest)
        states = {attempt: _state(parts) for attempt, parts in attempts.items()}
        payer = _payer(states)
        for attempt, parts in attempts.items():
            owner: Owner = "tenant" if attempt == payer else "failed"
            ended = {part.sequence for part in parts if part.finish_reason is not None}
            for part in parts:
                is_open = states[attempt] == "unfinished" and part.sequence not in ended
                found[part.id] = "unfinished" if is_open else owner
    return found


def owner_alone(record: Contender) -> Owner:
    """Return the owner of a record without any other of its request: what most requests come to."""
    if record.mirror:
        return "mirror"
    if not record.tenant:
        return "unstamped"
    if record.finish_reason is None:
        return "unfinished"
    return "failed" if record.finish_reason == "error" else "tenant"


def _attempts(records: Iterable[Contender]) -> dict[_Attempt, list[Contender]]:
    of_engine: dict[_Attempt, list[Contender]] = defaultdict(list)
    for record in records:
        of_engine[record.attempt, record.engine].append(record)
    attempts: dict[_Attempt, list[Contender]] = {}
    sequences: dict[_Attempt, set[int]] = {}
    for (number, engine), parts in sorted(of_engine.items(), key=lambda item: item[0]):
        own = {part.sequence for part in parts}
        into = number, engine
        if engine not in RECKONED:
            others = (one for one in attempts if one[0] == number and not _reckoned(one))
            into = next((one for one in others if own.isdisjoint(sequences[one])), into)
        attempts.setdefault(into, []).extend(parts)
        sequences.setdefault(into, set()).update(own)
    return attempts


def _state(parts: Iterable[Contender]) -> _State:
    ends: dict[int, set[str]] = defaultdict(set)
    for part in parts:
        ends[part.sequence] |= {part.finish_reason} if part.finish_reason is not None else set()
    reasons = set[str]().union(*ends.values())
    if "error" in reasons:
        return "failed"
    if not all(ends.values()):
        return "unfinished"
    return "aborted" if "abort" in reasons else "served"


def _reckoned(attempt: _Attempt) -> bool:
    return attempt[1] in RECKONED


def _payer(states: Mapping[_Attempt, _State]) -> _Attempt | None:
    """Return the attempt that the tenant pays for, None while there is none."""
    served = [attempt for attempt, state in states.items() if state == "served"]
    if served:
        return min(served, key=lambda attempt: (_reckoned(attempt), attempt))
    last = max(states, key=lambda attempt: (not _reckoned(attempt), attempt))
    return last if states[last] != "failed" else None
