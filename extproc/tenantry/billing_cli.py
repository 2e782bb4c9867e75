"""`tenantry usage`, `invoice` and `profile`: what was used and what it costs, asked from a ledger's service."""

import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from tenantry import billing_shown as shown
from tenantry.core.billing import profile as profiles
from tenantry.core.billing.spans import Span, period_from, span_from
from tenantry.core.billing.statement import By, UsageTable, as_json, remarks, usage_table
from tenantry.core.billing.tallies import Tally
from tenantry.core.errors import TenantryError
from tenantry.core.keyring import ADMIN_TOKEN
from tenantry.core.schema import nearest
from tenantry.ledger_reach import HERE, Reach, client_of
from tenantry.training_cli import record

out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

usage_app = App(name="usage", help="What was used: by tenant, model, version, adapter, hour. `record` books training.")
usage_app.command(record)

FROM_HELP = "Instead of a period: a day or a whole hour (UTC), like 2026-11-25 or 2026-11-25T13:00."
MAX_CONFIG_BYTES = 4 * 1024 * 1024


@usage_app.default
def usage(
    *,
    by: str = "tenant,model",
    period: str | None = None,
    begin: Annotated[str | None, Parameter(name="--from", help=FROM_HELP)] = None,
    end: Annotated[str | None, Parameter(name="--to", help="The first hour that does not count.")] = None,
    tenant: str | None = None,
    model: str | None = None,
    format: Literal["table", "csv", "json", "parquet"] | None = None,  # noqa: A002  # the option's name
    out_file: Annotated[Path | None, Parameter(name="--out")] = None,
    reach: Reach = HERE,
) -> None:
    """Show what was used, exactly as the ledger has it.

    Parameters
    ----------
    by
        Columns, with commas between: tenant, tier, model, version, adapter, hour.
    period
        A billing period, like 2026-11. Default: the present one.
    tenant
        One tenant. With a tenant's own API key it is always that one.
    model
        One model.
    format
        table, csv, json or parquet. Default: by the name of --out, else a table.
    out_file
        A file instead of the terminal.
    """
    columns = _columns(by)
    span = span_from(period, begin, end, time.time())
    kind = format or _format_of(out_file)
    tallies = _tallies(reach, columns, span, tenant, model)
    if not tallies:
        _say_none(reach, span, tenant, model)
    table = usage_table(tallies, columns)
    if kind == "parquet":
        _write_parquet(table, out_file)
        return
    if kind == "table":
        if tallies:
            _deliver([shown.usage_shown(table), *remarks(table)], out_file)
        return
    _deliver(shown.usage_csv(table) if kind == "csv" else as_json(table).decode(), out_file)


def invoice(
    *,
    period: str | None = None,
    tenant: str | None = None,
    format: Literal["table", "csv", "json"] | None = None,  # noqa: A002  # the option's name
    out_file: Annotated[Path | None, Parameter(name="--out")] = None,
    reach: Reach = HERE,
) -> None:
    """Show a period's invoices line by line; without --tenant all of them, and what the operator pays for itself.

    Parameters
    ----------
    period
        A billing period, like 2026-11. Default: the present one.
    tenant
        One tenant. With a tenant's own API key it is always that one.
    format
        table, csv (lines of invoices) or json. Default: by the name of --out, else a table.
    out_file
        A file instead of the terminal.
    """
    chosen = period_from(period, time.time())
    kind = format or _format_of(out_file)
    params = {"period": chosen} | ({"tenant": tenant} if tenant is not None else {})
    bills = asyncio.run(client_of(reach, ADMIN_TOKEN).bills(params))
    if kind == "json":
        _deliver(msgspec.json.format(msgspec.json.encode(bills), indent=1).decode() + "\n", out_file)
        return
    if kind == "csv":
        _deliver(shown.invoices_csv(bills.invoices), out_file)
        return
    if kind == "parquet":
        raise TenantryError("invoices come as table, csv or json; `tenantry usage` writes Parquet")
    parts: list[str | Table] = []
    for each in bills.invoices:
        parts += [*shown.invoice_shown(each), ""]
    if not bills.invoices:
        parts += [f"No tenant has used anything in {chosen} yet.", ""]
    if bills.statement is not None:
        parts += shown.statement_shown(bills.statement)
    _deliver(parts, out_file)


def profile(config: Path, /, *, name: str = "MODEL") -> None:
    """Print what a token of a model weighs, from its config.json, as YAML for the rules.

    Parameters
    ----------
    config
        The config.json beside the model's weights.
    name
        The model's name in the rules.
    """
    try:
        with config.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise TenantryError(f"{config}: {error.strerror or error}") from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise TenantryError(f"{config}: larger than {MAX_CONFIG_BYTES} bytes; a model's config.json is wanted")
    try:
        derivation = profiles.derive(raw)
    except profiles.ProfileError as error:
        raise TenantryError(f"{config}: {error}") from None
    for line in shown.profile_shown(derivation, config.name, name):
        out.print(line, markup=False)


def _columns(by: str) -> list[By]:
    known: tuple[By, ...] = get_args(By)
    names = [name for part in by.split(",") if (name := part.strip())]
    for name in names:
        if name not in known:
            raise TenantryError(f"--by {name[:50]}: no such column; {nearest(name, known)}")
    return [column for name in names for column in known if column == name]


def _tallies(reach: Reach, columns: Iterable[By], span: Span, tenant: str | None, model: str | None) -> list[Tally]:
    given = {
        "group_by": ",".join(dict.fromkeys((*columns, "measured"))), "period": span.period, "from": span.from_s,
        "to": span.to_s, "tenant": tenant, "model": model,
    }  # fmt: skip
    params = {name: str(value) for name, value in given.items() if value is not None}
    return asyncio.run(client_of(reach, ADMIN_TOKEN).usage(params))


def _say_none(reach: Reach, span: Span, tenant: str | None, model: str | None) -> None:
    """Say that there is nothing, and for a name that nobody has, which one was probably meant."""
    named: tuple[tuple[By, str | None], ...] = (("tenant", tenant), ("model", model))
    for what, name in named:
        if name is not None:
            known = {getattr(tally, what) for tally in _tallies(reach, [what], span, None, None)} - {""}
            if known and name not in known:
                raise TenantryError(f"no usage of {what} {name!r} {span}; {nearest(name, known)}")
    err.print(f"No usage {span} yet.", markup=False)


def _format_of(path: Path | None) -> Literal["table", "csv", "json", "parquet"]:
    """Return the format that a file's name asks for; a table for the terminal and for any other name."""
    suffixes: dict[str, Literal["csv", "json", "parquet"]] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
    return suffixes.get(path.suffix.lower(), "table") if path is not None else "table"


def _deliver(what: str | Sequence[str | Table], path: Path | None) -> None:
    """Print text as it is or parts by rich, or write them to a file."""
    if path is None:
        if isinstance(what, str):
            sys.stdout.write(what)
        else:
            for part in what:
                out.print(part)
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            if isinstance(what, str):
                file.write(what)
            else:
                to_file = Console(file=file, highlight=False, emoji=False, soft_wrap=True, width=200, no_color=True)
                for part in what:
                    to_file.print(part)
    except OSError as error:
        raise TenantryError(f"--out {path}: {error.strerror or error}") from None


def _write_parquet(table: UsageTable, path: Path | None) -> None:
    from tenantry.adapters.parquet import write_parquet  # noqa: PLC0415

    if path is None:
        raise TenantryError("Parquet is no text for a terminal: give --out FILE")
    try:
        write_parquet(table, path)
    except OSError as error:
        raise TenantryError(f"--out {path}: {error.strerror or error}") from None
