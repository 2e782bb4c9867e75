"""`tenantry ledger export`: send usage on to others' billing, and decide on what the export leaves to a person."""

import asyncio
import getpass
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tenantry.adapters import logs
from tenantry.adapters.bind import parse_address
from tenantry.adapters.ledger import place_of
from tenantry.adapters.ledger.export import open_tables
from tenantry.adapters.ledger.export.outbox import Outbox, Parked, Standing
from tenantry.adapters.rules_file import read_document, read_file
from tenantry.core.billing.export import HourSum
from tenantry.core.billing.export_settings import DestinationName, ExportSettings, parse_settings
from tenantry.core.billing.outbox import State
from tenantry.core.errors import TenantryError

Result = TypeVar("Result")

out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)

app = App(name="export", help="Usage as events of OpenMeter, Lago and Stripe, and what a person has to decide of them.")

Db = Annotated[str, Parameter(help="The ledger's database: sqlite:PATH or postgresql://..., or @FILE that holds it.")]
Who = Annotated[str | None, Parameter(help="Who says so, for the record. Default: the user of this shell.")]
Why = Annotated[str, Parameter(help="Why, for the record.")]
All = Annotated[bool, Parameter(name="--all", negative="", help="All that is parked for this destination.")]
Ids = Annotated[tuple[str, ...], Parameter(help="Ids, as `parked` shows them.")]

MAX_AT_ONCE = 100_000


@app.command
def run(settings: Path, /, *, db: Db, listen: str = "127.0.0.1:9401") -> None:
    """Export until SIGTERM. One process exports at a time; a second one waits to take over.

    Parameters
    ----------
    settings
        The document that says where to; see docs/export-billing.md.
    listen
        /healthz and /metrics: HOST:PORT or unix:/PATH.
    """
    from tenantry.adapters.ledger.export.process import ExportOptions  # noqa: PLC0415  # aiohttp: only here
    from tenantry.adapters.ledger.export.process import run as export  # noqa: PLC0415

    logs.configure()
    asyncio.run(export(ExportOptions(settings=_settings(settings), db=place_of(db), listen=parse_address(listen))))


@app.command
def check(settings: Path, /) -> None:
    """Check a settings document; every problem with its path."""
    found = _settings(settings)
    out.print(f"{settings}: good; exports to {', '.join(found.names())} what ended at {found.since} or later")


@app.command
def status(*, db: Db) -> None:
    """Show what is done, what waits, and what a person has to decide."""
    found = _with(db, lambda outbox: outbox.standing())
    if not found:
        out.print("Nothing was exported yet.")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("destination", "pending", "in doubt", "oldest", "parked", "done", "discarded"):
        table.add_column(column, justify="left" if column == "destination" else "right")
    for each in found:
        table.add_row(
            each.destination, f"{each.pending:,}", f"{each.in_doubt:,}", _age(each), f"{each.parked:,}",
            f"{each.done:,}", f"{each.discarded:,}",
        )  # fmt: skip
    out.print(table)
    if any(each.parked for each in found):
        out.print("`tenantry ledger export parked` shows what waits for you.")


@app.command
def parked(destination: DestinationName | None = None, /, *, db: Db, limit: int = 100) -> None:
    """Show what waits for a person, and why."""
    found = _with(db, lambda outbox: outbox.parked(destination, limit))
    if not found:
        out.print("Nothing is parked.")
    for each in found:
        out.print(f"[bold]{each.destination} {escape(each.id)}[/bold]")
        out.print(f"  {escape(_said(each))}")
        out.print(f"  {escape(each.reason)}")
        if isinstance(each.item, HourSum) and each.doubtful_since_s is not None:
            out.print(
                f"  first sent {_moment(each.doubtful_since_s)}; Stripe's own sum of that hour is "
                f"{each.counted:,} if it was not counted, {each.counted + each.item.value:,} if it was"
            )


@app.command
def retry(destination: DestinationName, /, *ids: str, why: Why, db: Db, every: All = False, who: Who = None) -> None:
    """Send parked events anew, in spite of any doubt: look first whether the destination has them."""
    _decide(db, destination, ids, "pending", every=every, who=who, why=why)


@app.command
def discard(destination: DestinationName, /, *ids: str, why: Why, db: Db, every: All = False, who: Who = None) -> None:
    """Never send parked events: they were counted after all, or were corrected by hand."""
    _decide(db, destination, ids, "discarded", every=every, who=who, why=why)


def _decide(
    db: str, destination: DestinationName, ids: Iterable[str], state: State, *, every: bool, who: str | None, why: str
) -> None:
    named = tuple(ids)
    if bool(named) == every:
        raise TenantryError("name ids, or --all, and not both; `tenantry ledger export parked` shows them")

    async def decide(outbox: Outbox) -> int:
        chosen = tuple(each.id for each in await outbox.parked(destination, MAX_AT_ONCE)) if every else named
        await outbox.decide(destination, chosen, state, who=who or getpass.getuser(), why=why, now_s=time.time())
        return len(chosen)

    out.print(f"{_with(db, decide):,} {'to be sent anew' if state == 'pending' else 'discarded'}")


def _with(db: str, work: Callable[[Outbox], Awaitable[Result]]) -> Result:
    async def do() -> Result:
        tables = open_tables(place_of(db))
        try:
            return await work(Outbox(tables, holder="a person"))
        finally:
            await tables.close()

    return asyncio.run(do())


def _settings(path: Path) -> ExportSettings:
    return parse_settings(read_document(read_file(path)))


def _said(each: Parked) -> str:
    if isinstance(each.item, HourSum):
        return f"{each.tenant}: {each.item.value:,} units in the hour of {_moment(each.item.hour)}"
    return f"{each.tenant}: {each.item.compute_units_micro / 1e6:,.6f} compute units of {_moment(each.at_s)}"


def _age(each: Standing) -> str:
    if each.oldest_s is None:
        return ""
    seconds = max(time.time() - each.oldest_s, 0)
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds:,.0f} s"


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
