"""`tenantry usage record`: training jobs book the GPU time that they held."""

import asyncio
import re
import shlex
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Literal

import msgspec
from rich.console import Console

from tenantry.core.errors import TenantryError
from tenantry.core.keyring import USAGE_TOKEN
from tenantry.core.rules_base import TENANT_PATTERN
from tenantry.core.usage import Training, read_record
from tenantry.ledger_reach import HERE, Reach, client_of

out = Console(highlight=False, emoji=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

PARTS_SINCE_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""A command's parts are numbered from the seconds since then: a job that starts again goes on with new numbers."""

MAX_GPU_SECONDS = 2**62 // 10**9
"""146 GPU-years: nanoseconds are kept in 63 bits."""


def record(
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
        Number of the record within the job. Default: 1; with a command a number that grows with time, so that a job
        that starts again adds to what it used before.
    adapter
        The adapter that is trained.
    tier
        The tier whose price counts. Default: the tenant's, by the ledger's rules.
    part_minutes
        With a command: how often its time is booked. A machine that dies loses that much.
    """
    if bool(command) == (gpu_seconds is not None):
        raise TenantryError(
            "give --gpu-seconds for a job that has ended, or --gpus N -- COMMAND to run it; one of both"
        )
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


def _book(training: Training, reach: Reach) -> None:
    answer = asyncio.run(client_of(reach, USAGE_TOKEN).book([training]))
    if answer.new:
        seconds = Decimal(training.gpu_ns).scaleb(-9)
        out.print(f"booked: {seconds:f} GPU-seconds of {training.tenant}, job {training.job} part {training.part}")
    else:
        said = f"job {training.job} part {training.part} is booked already; nothing was added"
        out.print(f"{said}, nor changed (what else the job used is another --part)", markup=False)


def _run(  # noqa: PLR0917  # the command's own arguments
    command: tuple[str, ...], base: Training, part: int | None, gpus: int, part_minutes: float, reach: Reach
) -> int:
    from tenantry.adapters.ledger.training import PATIENCE_SECONDS, Job, metered  # noqa: PLC0415

    if gpus < 1 or part_minutes <= 0:
        raise TenantryError("--gpus and --part-minutes must be above 0")
    first = part if part is not None else int(time.time() - PARTS_SINCE_S)
    job = Job(
        job=base.job, tenant=base.tenant, model=base.model, tier=base.tier, adapter=base.adapter, gpus=gpus,
        first_part=first,
    )  # fmt: skip
    ended = asyncio.run(
        metered(command, job, client_of(reach, USAGE_TOKEN), part_s=part_minutes * 60.0, patience_s=PATIENCE_SECONDS)
    )
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
    if not seconds.is_finite() or seconds < 0:
        raise TenantryError(f"--gpu-seconds {text[:30]!r}: write wall seconds times GPUs as a number, like 123.4")
    if seconds > MAX_GPU_SECONDS:
        raise TenantryError(f"--gpu-seconds {text[:30]}: a record holds {MAX_GPU_SECONDS:,} at most")
    return int(seconds.scaleb(9).to_integral_value())


def _check(training: Training) -> None:
    """Refuse what the ledger would: a Struct checks nothing when it is built."""
    try:
        read_record(msgspec.json.encode(training))
    except msgspec.MsgspecError as error:
        raise TenantryError(f"this makes no record: {error}") from None
    if not re.fullmatch(TENANT_PATTERN, training.tenant):
        raise TenantryError(f"--tenant {training.tenant[:70]!r}: no tenant can be called so")
