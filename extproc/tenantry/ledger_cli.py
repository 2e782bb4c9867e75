"""`tenantry ledger`: run the ledger of usage, close its periods, list those that were closed."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from tenantry.adapters import logs
from tenantry.adapters.bind import BindError, Tls, parse_address
from tenantry.adapters.ledger import place_of
from tenantry.core.keyring import ADMIN_TOKEN
from tenantry.export_cli import app as export_app
from tenantry.ledger_reach import HERE, LEDGER, Reach, client_of

out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)

app = App(name="ledger", help="The ledger of usage: run it, close its periods, export it.")
app.command(export_app)


@app.command
def serve(
    rules: Path,
    /,
    *,
    secrets: Path,
    db: str,
    listen: str = LEDGER,
    telemetry: str | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    tls_client_ca: Path | None = None,
    allow_client_san: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
) -> None:
    """Run the ledger until SIGTERM: engines' spools post to it, invoices are read from it.

    Parameters
    ----------
    rules
        The rules document: models' weights, tenants' keys, when a period may be closed. It is watched.
    secrets
        Folder with admin-token and usage-token; the other secrets are not read.
    db
        sqlite:PATH, or a postgresql:// URL; @FILE reads either from a file.
    listen
        /records, /usage, /invoice, /engines, /periods, /healthz, /readyz, /metrics: HOST:PORT or unix:/PATH.
    telemetry
        /healthz, /readyz and /metrics alone, plain HTTP on any address, for kubelet and Prometheus.
    tls_cert, tls_key, tls_client_ca, allow_client_san
        Mutual TLS, required on any address that other hosts can reach.
    """
    from tenantry.adapters.ledger.service import LedgerOptions  # noqa: PLC0415  # aiohttp: only here
    from tenantry.adapters.ledger.service import serve as run  # noqa: PLC0415

    logs.configure()
    tls = None
    if tls_cert and tls_key and tls_client_ca:
        tls = Tls(certificate=tls_cert, key=tls_key, client_ca=tls_client_ca, allowed_sans=frozenset(allow_client_san))
    elif tls_cert or tls_key or tls_client_ca or allow_client_san:
        raise BindError("mutual TLS needs --tls-cert, --tls-key, --tls-client-ca and --allow-client-san together")
    options = LedgerOptions(
        rules=rules, secrets=secrets, db=place_of(db), listen=parse_address(listen), tls=tls,
        telemetry=parse_address(telemetry) if telemetry else None,
    )  # fmt: skip
    asyncio.run(run(options))


@app.command
def close(period: str, /, *, reach: Reach = HERE) -> None:
    """Close a period (2026-11) for good; usage that comes later is booked in the next one, as a correction."""
    closed = asyncio.run(client_of(reach, ADMIN_TOKEN).close(period))
    out.print(f"{closed.period}: closed with {closed.records:,} records")


@app.command
def periods(*, reach: Reach = HERE) -> None:
    """List the periods that were closed."""
    found = asyncio.run(client_of(reach, ADMIN_TOKEN).periods())
    if not found:
        out.print("No period was closed yet.")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("period")
    table.add_column("closed")
    table.add_column("records", justify="right")
    for each in found:
        moment = datetime.fromtimestamp(each.closed_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        table.add_row(each.period, moment, f"{each.records:,}")
    out.print(table)
