"""`tenantry usage`, `invoice` and `profile`: what was used and what it costs, asked from a ledger's service."""

import asyncio
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from tenantry import billing_shown as shown
from tenantry.core.billing import profile as profiles
from tenantry.core.billing.periods import period_of
from tenantry.core.billing.spans import Span, period_from, span_from
from tenantry.core.billing.statement import By, as_csv, as_json, remarks, usage_table
from tenantry.core.billing.tallies import Tally
from tenantry.core.errors import TenantryError
from tenantry.core.keyring import ADMIN_TOKEN, USAGE_TOKEN
from tenantry.core.rules_base import TENANT_PATTERN
from tenantry.core.schema import nearest
from tenantry.core.usage import Training, read_record

out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

usage_app = App(name="usage", help="What was used: by tenant, model, version, adapter, hour. `record` books training.")

LEDGER = "127.0.0.1:9400"
SECRETS = Path(".tenantry/secrets")
MAX_CONFIG_BYTES = 4 * 1024 * 1024
PARTS_SINCE_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""A command's parts are numbered from the seconds since then: a job that starts again goes on with new numbers."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where the ledger is.

    Parameters
    ----------
    ledger
        The ledger's service: HOST:PORT, unix:/PATH or an https URL.
    token_file
        A file with the credential: the admin token (default: .tenantry/secrets/admin-token), or a tenant's own API
        key, which opens that tenant's own. To book records: the usage token (default: .tenantry/secrets/usage-token).
    ledger_ca
        The CA of the ledger's certificate.
    ledger_cert, ledger_key
        A client certificate and its key, where the ledger asks for one.
    """

    ledger: str = LEDGER
    token_file: Path | None = None
    ledger_ca: Path | None = None
    ledger_cert: Path | None = None
    ledger_key: Path | None = None


HERE = Reach()


@usage_app.default
def usage(
    *,
    by: str = "tenant,model",
    period: str | None = None,
    begin: Annotated[str | None, Parameter(name="--from")] = None,
    end: Annotated[str | None, Parameter(name="--to")] = None,
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
    begin, end
        Instead of a period: days or whole hours (UTC), like 2026-11-25 or 2026-11-25T13:00.
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
    _deliver(as_csv(table) if kind == "csv" else as_json(table).decode(), out_file)


@usage_app.command
def record(  # noqa: PLR0917  # the command to run is positional
    *command: str,
    tenant: str,
    model: str,
    job: str,
    kind: Literal["training"] = "training",
    gpu_seconds: str | None = None,
    gpus: int | None = None,
    part: int | None = None,
    adapter: str | None = None,
    tier: str = "",
    part_minutes: float = 5.0,
    reach: Reach = HERE,
) -> None:
    """Book a training job's GPU time: what it was (--gpu-seconds), or by running it (--gpus N -- COMMAND ...).

    A record with the same job and part is booked once, however often it is posted. With a command, its wall time times
    the GPUs is booked in parts while it runs, whatever it ends like, and its exit code is passed on.

    Parameters
    ----------
    command
        The job itself, after `--`.
    tenant
        Who pays.
    model
        The base model.
    job
        A name for the job that no other job has.
    kind
        What kind of work it is.
    gpu_seconds
        Wall seconds times GPUs, for a job that has ended.
    gpus
        How many GPUs the command holds.
    part
        Number of the record within the job. Default: 1; with a command a number that grows with time, so that a job that
        starts again adds to what it used before.
    adapter
        The adapter that is trained.
    tier
        The tier whose price counts. Default: the tenant's, by the ledger's rules.
    part_minutes
        With a command: how often its time is booked. A machine that dies loses that much.
    """
    if bool(command) == (gpu_seconds is not None):
        raise TenantryError("give --gpu-seconds for a job that has ended, or --gpus N -- COMMAND to run it; one of both")
    if (gpus is None) == bool(command):
        raise TenantryError("--gpus N belongs to a command: how many GPUs it holds")
    del kind  # there is one
    base = Training(
        job=job, part=part if part is not None else 1, tenant=tenant, model=model, tier=tier, adapter=adapter,
        ended_s=time.time(), gpu_ns=_gpu_ns(gpu_seconds) if gpu_seconds is not None else 0,
    )  # fmt: skip
    _check(base)
    if not command:
        _book(base, reach)
    else:
        sys.exit(_run(command, base, part, gpus or 0, part_minutes, reach))


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
    bills = asyncio.run(_client(reach, ADMIN_TOKEN).bills(params))
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
    known = get_args(By)
    columns: list[By] = []
    for name in filter(None, (part.strip() for part in by.split(","))):
        if name not in known:
            raise TenantryError(f"--by {name}: no such column; {nearest(name, known)}")
        columns.append(name)
    return columns


def _tallies(
    reach: Reach, columns: Iterable[By], span: Span, tenant: str | None, model: str | None
) -> list[Tally]:
    given = {
        "group_by": ",".join(dict.fromkeys((*columns, "measured"))), "period": span.period, "from": span.from_s,
        "to": span.to_s, "tenant": tenant, "model": model,
    }  # fmt: skip
    params = {name: str(value) for name, value in given.items() if value is not None}
    return asyncio.run(_client(reach, ADMIN_TOKEN).usage(params))


def _say_none(reach: Reach, span: Span, tenant: str | None, model: str | None) -> None:
    """Say that there is nothing, and for a name that nobody has, which one was probably meant."""
    for what, name in (("tenant", tenant), ("model", model)):
        if name is not None:
            known = {getattr(tally, what) for tally in _tallies(reach, [what], span, None, None)} - {""}
            if known and name not in known:
                raise TenantryError(f"no usage of {what} {name!r} in {span}; {nearest(name, known)}")
    err.print(f"No usage in {span} yet.", markup=False)


def _book(training: Training, reach: Reach) -> None:
    answer = asyncio.run(_client(reach, USAGE_TOKEN).book([training]))
    if answer.new:
        seconds = Decimal(training.gpu_ns).scaleb(-9)
        out.print(f"booked: {seconds:f} GPU-seconds of {training.tenant}, job {training.job} part {training.part}")
    else:
        out.print(f"job {training.job} part {training.part} is booked already; nothing was added", markup=False)


def _run(  # noqa: PLR0917  # the command's own arguments
    command: tuple[str, ...], base: Training, part: int | None, gpus: int, part_minutes: float, reach: Reach
) -> int:
    from tenantry.adapters.ledger.training import Job, metered  # noqa: PLC0415

    if gpus < 1 or part_minutes <= 0:
        raise TenantryError("--gpus and --part-minutes must be above 0")
    first = part if part is not None else int(time.time() - PARTS_SINCE_S)
    job = Job(
        job=base.job, tenant=base.tenant, model=base.model, tier=base.tier, adapter=base.adapter, gpus=gpus,
        first_part=first,
    )  # fmt: skip
    ended = asyncio.run(metered(command, job, _client(reach, USAGE_TOKEN), part_s=part_minutes * 60.0))
    if ended.known:
        err.print(f"tenantry: {ended.known} parts of job {job.job} were booked before; is its name used twice?")
    if ended.unconfirmed:
        err.print(f"tenantry: {len(ended.unconfirmed)} parts are not booked: {ended.why}; to book them:", markup=False)
    for each in ended.unconfirmed:
        err.print(f"  {_again(each)}", markup=False)
    return ended.exit_code


def _again(each: Training) -> str:
    """Return the command that books a record again, with the same id."""
    words = ["tenantry", "usage", "record", "--tenant", each.tenant, "--model", each.model, "--job", each.job]
    words += ["--part", str(each.part), "--gpu-seconds", f"{Decimal(each.gpu_ns).scaleb(-9):f}"]
    words += ["--adapter", each.adapter] if each.adapter else []
    words += ["--tier", each.tier] if each.tier else []
    return shlex.join(words)


def _gpu_ns(text: str) -> int:
    try:
        seconds = Decimal(text)
    except InvalidOperation:
        seconds = Decimal("NaN")
    if not seconds.is_finite() or seconds < 0 or seconds > 2**62 // 10**9:
        raise TenantryError(f"--gpu-seconds {text[:30]!r}: write wall seconds times GPUs as a number, like 123.4")
    return int(seconds.scaleb(9).to_integral_value())


def _check(training: Training) -> None:
    """Refuse what the ledger would: a Struct checks nothing when it is built."""
    import re  # noqa: PLC0415

    try:
        read_record(msgspec.json.encode(training))
    except msgspec.MsgspecError as error:
        raise TenantryError(f"this makes no record: {error}") from None
    if not re.fullmatch(TENANT_PATTERN, training.tenant):
        raise TenantryError(f"--tenant {training.tenant[:70]!r}: no tenant can be called so")
