"""The outbox: what is to be sent, what is on its way, what became of it. Each method is one transaction.

The rules are `core.billing.outbox`'s. Before a byte goes out, `claim` has written that it may; after an answer,
`finish` writes what it meant. A process that dies in between leaves rows in state `sending`: the next claim finds them,
and they are in doubt.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tenantry.adapters.ledger.export.tables import Tables, Transaction
from tenantry.core.billing.answers import Verdict
from tenantry.core.billing.export import HourSum, Item, read_item
from tenantry.core.billing.export_settings import DestinationName
from tenantry.core.billing.outbox import State, after, overdue
from tenantry.core.errors import TenantryError

LEASE = "exporter"
LEASE_SECONDS = 60.0
KEEP_SECONDS: dict[DestinationName, float] = {"openmeter": 7 * 86_400, "lago": 7 * 86_400, "stripe": 45 * 86_400}
"""What is done is kept so long for people to look at; to tell what Stripe should have, while it takes anything."""


class LeaseLostError(TenantryError):
    """Another exporter has taken over; what this one was about to do is not done."""


class NoEventError(TenantryError):
    """A person named an event that is not parked; the message says what it is."""


class Unmapped(Struct, frozen=True, kw_only=True):
    """An item that cannot be rendered, and why."""

    why: str


Render = Callable[[Item], str | Unmapped]


class Claimed(Struct, frozen=True, kw_only=True):
    """An event that may be sent now. `attempt` counts the answers that earlier sends of it got."""

    id: str
    body: str
    attempt: int
    doubtful_before_s: float | None


class Claim(Struct, frozen=True, kw_only=True):
    """What a claim came to: events to send, and how many were parked instead."""

    events: tuple[Claimed, ...] = ()
    parked: int = 0


class Fate(Struct, frozen=True, kw_only=True):
    """What a send meant for one event. `answered`: the destination said something, whatever it was."""

    event: Claimed
    verdict: Verdict
    words: str = ""
    answered: bool = True


class Standing(Struct, frozen=True, kw_only=True):
    """A destination's outbox in figures; `oldest_s` is when the oldest event that is not done was added."""

    destination: str
    pending: int = 0
    in_doubt: int = 0
    parked: int = 0
    done: int = 0
    discarded: int = 0
    oldest_s: float | None = None


class Parked(Struct, frozen=True, kw_only=True):
    """An event that waits for a person. `counted` is what is known to count there for the same tenant and hour."""

    destination: str
    id: str
    tenant: str
    at_s: float
    reason: str
    changed_s: float
    doubtful_since_s: float | None
    item: Item
    counted: int = 0


_COLUMNS = "id, item, tries, answers, doubtful_since_s, body, at_s"
_PARK = (
    "UPDATE export_events SET state = 'parked', reason = ?, changed_s = ? WHERE destination = ? AND id = ? "
    "AND state = 'pending'"
)


class Outbox:
    """The outbox of one ledger. `holder` names this process among those that may export."""

    def __init__(self, tables: Tables, *, holder: str) -> None:
        self._tables = tables
        self.holder = holder

    async def lease(self, now_s: float) -> bool:
        """Take or keep the right to export; return whether this process has it. One process has it at a time."""
        async with self._tables.transaction() as tx:
            rows = await tx.rows(
                "INSERT INTO export_lease (name, holder, until_s) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "holder = excluded.holder, until_s = excluded.until_s WHERE export_lease.holder = excluded.holder "
                # A clock that was set back must not keep everybody out.
                "OR export_lease.until_s <= ? OR export_lease.until_s > ? RETURNING holder",
                LEASE, self.holder, now_s + LEASE_SECONDS, now_s, now_s + 10 * LEASE_SECONDS,
            )  # fmt: skip
            return bool(rows)

    async def release(self) -> None:
        """Give the right back, so that the next process need not wait."""
        async with self._tables.transaction() as tx:
            await tx.rows("DELETE FROM export_lease WHERE name = ? AND holder = ?", LEASE, self.holder)

    async def claim(
        self,
        destination: DestinationName,
        render: Render,
        *,
        size: int,
        fresh: bool,
        now_s: float,
        remembers_hours: float | None,
        oldest_s: float | None = None,
    ) -> Claim:
        """Hand out up to `size` events; park those that must not be sent. Events before `oldest_s` are too old.

        Raises LeaseLostError. `fresh`: those that were tried least come first, else those that are in doubt.
        """
        async with self._tables.transaction() as tx:
            await self.hold(tx, now_s)
            await tx.rows(
                "UPDATE export_events SET state = 'pending' WHERE destination = ? AND state = 'sending'", destination
            )
            parked = await _park_overdue(tx, destination, remembers_hours, now_s)
            order = "tries, at_s, id" if fresh else "doubtful_since_s IS NULL, doubtful_since_s, tries, at_s, id"
            rows = await tx.rows(
                f"SELECT {_COLUMNS} FROM export_events WHERE destination = ? AND state = 'pending' "  # noqa: S608
                f"ORDER BY {order} LIMIT ?", destination, size,
            )  # fmt: skip
            claimed, updates = [], []
            for row in rows:
                event = _claimed(row, render, oldest_s)
                if isinstance(event, Unmapped):
                    await tx.rows(_PARK, event.why, now_s, destination, row[0])
                    parked += 1
                    continue
                claimed.append(event)
                updates.append((now_s, event.body, now_s, destination, event.id))
            await tx.many(
                "UPDATE export_events SET state = 'sending', tries = tries + 1, doubtful_since_s = "
                "COALESCE(doubtful_since_s, ?), body = ?, changed_s = ? WHERE destination = ? AND id = ?",
                updates,
            )
            return Claim(events=tuple(claimed), parked=parked)

    async def finish(self, destination: DestinationName, fates: Sequence[Fate], sent_s: float) -> None:
        """Book what a send meant. An event that another process or a person has seen to meanwhile stays as it is."""
        changes = []
        for fate in fates:
            now = after(fate.verdict, fate.words, doubtful_before_s=fate.event.doubtful_before_s, sent_s=sent_s)
            # Out of doubt, it is rendered anew the next time: the settings may have been mended.
            body = fate.event.body if now.doubtful_since_s is not None else None
            changes.append((
                now.state, now.doubtful_since_s, now.reason, body, int(fate.answered), sent_s, destination,
                fate.event.id,
            ))  # fmt: skip
        async with self._tables.transaction() as tx:
            await tx.many(
                "UPDATE export_events SET state = ?, doubtful_since_s = ?, reason = ?, body = ?, "
                "answers = answers + ?, changed_s = ? WHERE destination = ? AND id = ? AND state = 'sending'",
                changes,
            )

    async def forget(self, now_s: float, limit: int = 5_000) -> None:
        """Forget events that have been done for long, `limit` of each destination at most."""
        async with self._tables.transaction() as tx:
            for destination, seconds in KEEP_SECONDS.items():
                for state in ("done", "discarded"):
                    rows = await tx.rows(
                        "SELECT destination, id FROM export_events WHERE destination = ? AND state = ? "
                        "AND changed_s < ? LIMIT ?",
                        destination, state, now_s - seconds, limit,
                    )  # fmt: skip
                    await tx.many("DELETE FROM export_events WHERE destination = ? AND id = ?", rows)

    async def standing(self, *, whole: bool = True) -> list[Standing]:
        """Return each destination's figures; without `whole`, which takes a while, not those of what is over."""
        # Texts of our own: a parameter would keep PostgreSQL from the index.
        where = "" if whole else "WHERE state IN ('pending', 'sending', 'parked') "
        async with self._tables.transaction() as tx:
            rows = await tx.rows(
                "SELECT destination, state, COUNT(*), SUM(CASE WHEN doubtful_since_s IS NULL THEN 0 ELSE 1 END), "  # noqa: S608
                f"MIN(added_s) FROM export_events {where}GROUP BY destination, state"
            )
        found: dict[str, dict[str, Any]] = {}
        for destination, state, events, in_doubt, added_s in rows:
            figures = found.setdefault(destination, {"destination": destination})
            if state in ("pending", "sending"):
                figures["pending"] = figures.get("pending", 0) + int(events)
                figures["in_doubt"] = figures.get("in_doubt", 0) + int(in_doubt)
                figures["oldest_s"] = min(figures.get("oldest_s", added_s), added_s)
            else:
                figures[state] = int(events)
        return [Standing(**found[destination]) for destination in sorted(found)]

    async def parked(self, destination: str | None = None, limit: int = 1_000) -> list[Parked]:
        """Return what waits for a person, longest first."""
        async with self._tables.transaction() as tx:
            rows = await tx.rows(
                "SELECT destination, id, tenant, at_s, reason, changed_s, doubtful_since_s, item FROM export_events "
                "WHERE state = 'parked' AND (destination = ? OR ? = '') ORDER BY changed_s, id LIMIT ?",
                destination or "", destination or "", limit,
            )  # fmt: skip
            return [await _parked(tx, row) for row in rows]

    async def decide(
        self, destination: str, ids: Sequence[str], state: State, *, who: str, why: str, now_s: float
    ) -> None:
        """Book a person's word on parked events: `pending` to send them anew, `discarded` to send them never.

        What is sent anew is sent in spite of any doubt. Raises NoEventError, and then changes nothing.
        """
        async with self._tables.transaction() as tx:
            for event_id in ids:
                rows = await tx.rows(
                    "UPDATE export_events SET state = ?, who = ?, why = ?, changed_s = ?, tries = 0, body = NULL, "
                    "doubtful_since_s = NULL WHERE destination = ? AND id = ? AND state = 'parked' RETURNING id",
                    state, who, why, now_s, destination, event_id,
                )  # fmt: skip
                if not rows:
                    raise NoEventError(await _not_parked(tx, destination, event_id))

    async def hold(self, tx: Transaction, now_s: float) -> None:
        """Make sure, in a transaction, that this process may export; raise LeaseLostError.

        It writes, so that another process that takes the right over waits for the transaction's end.
        """
        rows = await tx.rows(
            "UPDATE export_lease SET until_s = ? WHERE name = ? AND holder = ? RETURNING holder",
            now_s + LEASE_SECONDS, LEASE, self.holder,
        )  # fmt: skip
        if not rows:
            raise LeaseLostError("another exporter has taken over")


def _claimed(row: tuple[Any, ...], render: Render, oldest_s: float | None) -> Claimed | Unmapped:
    event_id, item, _tries, answers, doubtful_since_s, body, at_s = row
    if oldest_s is not None and at_s < oldest_s:
        return Unmapped(why="older than the destination takes")
    if doubtful_since_s is None or body is None:
        body = render(read_item(item.encode()))
        if isinstance(body, Unmapped):
            return body
    return Claimed(id=event_id, body=body, attempt=int(answers), doubtful_before_s=doubtful_since_s)


async def _park_overdue(
    tx: Transaction, destination: DestinationName, remembers_hours: float | None, now_s: float
) -> int:
    if remembers_hours is None:
        return 0
    rows = await tx.rows(
        "SELECT id, doubtful_since_s FROM export_events WHERE destination = ? AND state = 'pending' "
        "AND doubtful_since_s IS NOT NULL ORDER BY doubtful_since_s", destination,
    )  # fmt: skip
    late = [event_id for event_id, since_s in rows if overdue(since_s, remembers_hours, now_s)]
    reason = f"may have been counted: its fate is unknown, and {destination} may have forgotten its id by now"
    await tx.many(_PARK, [(reason, now_s, destination, event_id) for event_id in late])
    return len(late)


async def _parked(tx: Transaction, row: tuple[Any, ...]) -> Parked:
    destination, event_id, tenant, at_s, reason, changed_s, doubtful_since_s, text = row
    item = read_item(text.encode())
    counted = 0
    if isinstance(item, HourSum):
        others = await tx.rows(
            "SELECT item FROM export_events WHERE destination = ? AND state = 'done' AND tenant = ? AND at_s = ?",
            destination, tenant, at_s,
        )  # fmt: skip
        counted = sum(other.value for (each,) in others if isinstance(other := read_item(each.encode()), HourSum))
    return Parked(
        destination=destination, id=event_id, tenant=tenant, at_s=at_s, reason=reason, changed_s=changed_s,
        doubtful_since_s=doubtful_since_s, item=item, counted=counted,
    )  # fmt: skip


async def _not_parked(tx: Transaction, destination: str, event_id: str) -> str:
    rows = await tx.rows("SELECT state FROM export_events WHERE destination = ? AND id = ?", destination, event_id)
    what = f"is {rows[0][0]}, not parked" if rows else "is not there"
    return f'the event "{event_id}" of {destination} {what}; `tenantry ledger export parked` lists those that are'


async def add(
    tx: Transaction, destination: DestinationName, items: Sequence[tuple[str, float, Item]], now_s: float
) -> None:
    """Add items (id, Unix time of the usage, item); one that is there already stays as it is."""
    await tx.many(
        "INSERT INTO export_events (destination, id, tenant, at_s, item, added_s, state, changed_s) "
        "VALUES (?, ?, ?, ?, ?, ?, 'pending', ?) ON CONFLICT (destination, id) DO NOTHING",
        [
            (destination, event_id, item.tenant, at_s, msgspec.json.encode(item).decode(), now_s, now_s)
            for event_id, at_s, item in items
        ],
    )
