"""`tenantry rollout`: look at rollouts, and move them, through the admin listener of any one sidecar."""

import asyncio
import getpass
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tenantry.adapters.admin_client import AdminClient
from tenantry.core.errors import TenantryError
from tenantry.core.rollout.standing import FLEET

out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)

Json = dict[str, Any]

app = App(
    name="rollout", help="Rollouts of candidate versions: where they stand, the evidence, and an operator's word."
)

ADMIN = "127.0.0.1:9300"
SECRETS = Path(".tenantry/secrets")

_STATUS_COLUMNS = (
    "model", "candidate", "stable", "state", "percent", "realised", "units", "mirror", "pairs", "suspicion",
)  # fmt: skip
_BARS = " ▁▂▃▄▅▆▇█"
_STYLE = {"splitting": "cyan", "promoted": "green", "paused": "yellow", "reverted": "red", "unknown": "magenta"}

All = Annotated[bool, Parameter(name="--all", negative="", help="Whom: everybody.")]
Admin = Annotated[str, Parameter(help="The admin listener of a sidecar, HOST:PORT or unix:/PATH.")]
Secrets = Annotated[Path, Parameter(help="The folder that holds the admin token.")]
Who = Annotated[str | None, Parameter(help="Who says so, for the history. Default: the user of this shell.")]
Why = Annotated[str, Parameter(help="Why, for the history.")]


@app.command
def status(model: str | None = None, /, *, admin: Admin = ADMIN, secrets: Secrets = SECRETS) -> None:
    """Show where each rollout stands: state, shares, and what an operator should look at."""
    found = _ask(admin, secrets, "GET", "/rollouts", params=_only(model=model))
    if not found:
        out.print("No model of the live rules has a rollout.")
        return
    table = Table(box=None, pad_edge=False)
    for column in _STATUS_COLUMNS:
        table.add_column(column, justify="left" if column in _STATUS_COLUMNS[:4] else "right", no_wrap=True)
    for each in found:
        progress = each["progress"]
        table.add_row(
            each["model"], each["candidate"], each["stable"], _coloured(_state(each)),
            f"{each['percents']['all']:g} %", _share(progress), str(progress["units"]),
            f"{each['mirror_percent']:g} %", str(progress["pairs"]), f"{max(progress['suspicion'], 0.0):.0%}",
        )  # fmt: skip
    out.print(table)
    for each in found:
        for line in _notes(each):
            out.print(f"  {line}")


@app.command
def explain(model: str, /, *, tenant: str | None = None, admin: Admin = ADMIN, secrets: Secrets = SECRETS) -> None:
    """Show the evidence of a rollout: every test, how far it is from a verdict, and its course over time."""
    (each,) = _ask(admin, secrets, "GET", "/rollouts", params={"model": model})
    out.print(f"{model}: candidate {each['candidate']} against stable {each['stable']}, {_state(each)}")
    out.print(
        f"rollout {each['rollout']}, chapter {each['chapter']}, {each['progress']['units']} candidate units of "
        f"{each['progress']['all_units']}"
    )
    for line in _notes(each):
        out.print(f"  {line}")
    out.print()
    out.print(_evidence(each["evidence"], tenant))
    if tenant is None:
        for line in _chart(each["course"]):
            out.print(line)
    out.print(
        "\nA tenant's verdict falls when a test's log e-value reaches its threshold (100 %), the fleet's when it also "
        "stands without the tenant that contributes most. One may look at any time."
    )


@app.command
def history(model: str, /, *, limit: int = 50, admin: Admin = ADMIN, secrets: Secrets = SECRETS) -> None:
    """Show every transition of a model's rollout: when, who or what, and why."""
    entries = _ask(admin, secrets, "GET", "/rollouts/history", params={"model": model, "limit": str(limit)})
    if not entries:
        out.print("Nothing has happened to this rollout yet.")
    for entry in entries:
        _show_entry(entry)


@app.command
def revert(
    model: str, /, *, all_tenants: All = False, tier: str | None = None,
    tenant: str | None = None, why: Why, who: Who = None, admin: Admin = ADMIN, secrets: Secrets = SECRETS,
) -> None:  # fmt: skip
    """Take the candidate back: no split, beta or mirror traffic from the next request on. Pins stay."""
    _say("revert", model, all_tenants, tier, tenant, why, who, admin, secrets)


@app.command
def resume(
    model: str, /, *, all_tenants: All = False, tier: str | None = None,
    tenant: str | None = None, why: Why, who: Who = None, admin: Admin = ADMIN, secrets: Secrets = SECRETS,
) -> None:  # fmt: skip
    """Let a reverted, paused or promoted rollout split again; after a revert the evidence begins anew."""
    _say("resume", model, all_tenants, tier, tenant, why, who, admin, secrets)


@app.command
def pause(
    model: str, /, *, all_tenants: All = False, tier: str | None = None,
    tenant: str | None = None, why: Why, who: Who = None, admin: Admin = ADMIN, secrets: Secrets = SECRETS,
) -> None:  # fmt: skip
    """Send the candidate nothing for now."""
    _say("pause", model, all_tenants, tier, tenant, why, who, admin, secrets)


@app.command
def promote(
    model: str, /, *, all_tenants: All = False, tier: str | None = None,
    tenant: str | None = None, why: Why, who: Who = None, admin: Admin = ADMIN, secrets: Secrets = SECRETS,
) -> None:  # fmt: skip
    """Give the candidate to a tenant, a tier or all: whom, must be named. Pinned tenants stay where they are."""
    _say("promote", model, all_tenants, tier, tenant, why, who, admin, secrets)


def _say(  # noqa: PLR0917  # the four commands differ in their word alone
    action: str, model: str, everybody: bool, tier: str | None, tenant: str | None,  # noqa: FBT001
    why: str, who: str | None, admin: str, secrets: Path,
) -> None:  # fmt: skip
    if [everybody, tier is not None, tenant is not None].count(True) != 1:
        raise TenantryError("name whom: exactly one of --all, --tier NAME and --tenant NAME")
    word = {"model": model, "action": action, "why": why, "who": who or _user(), **_only(tier=tier, tenant=tenant)}
    answer = _ask(admin, secrets, "POST", "/rollouts", body=word | ({"all": True} if everybody else {}))
    if not answer["entries"]:
        out.print(f"{model}: it was so already, nothing changed")
    for entry in answer["entries"]:
        _show_entry(entry)
    for line in _notes(answer["status"]):
        out.print(f"  {line}")


def _ask(admin: str, secrets: Path, method: str, path: str, **request: Any) -> Any:
    return asyncio.run(AdminClient(admin, secrets).ask(method, path, **request))


def _only(**given: str | None) -> dict[str, str]:
    return {name: value for name, value in given.items() if value is not None}


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def _state(status: Json) -> str:
    """Return the fleet's state; what a process that could not read its stores tells is no state."""
    return str(status["state"]) if status["readable"] else "unknown"


def _coloured(state: str) -> str:
    return f"[{_STYLE[state]}]{state}[/]"


def _share(progress: Json) -> str:
    return f"{progress['units'] / progress['all_units']:.2%}" if progress["all_units"] else "-"


def _notes(status: Json) -> Iterable[str]:
    for scope, state in status["scopes"].items():
        if scope != FLEET:
            yield f"{scope}: {_coloured(state)}"
    if own := [f"{scope} {percent:g} %" for scope, percent in status["percents"].items() if scope != "all"]:
        yield f"percent of their own: {', '.join(own)}"
    if status["beta"]:
        yield f"beta: {', '.join(status['beta'][:8])}{' ...' if len(status['beta']) > 8 else ''}"
    if status["next_step"]:
        yield f"next step: {status['next_step']}"
    for problem in status["problems"]:
        yield f"[yellow]look: {escape(problem)}[/]"


def _evidence(rows: list[Json], tenant: str | None) -> Table:
    table = Table(box=None, pad_edge=False)
    for column, justify in (
        ("whose", "left"), ("test", "left"), ("visit", "right"), ("units", "right"), ("log e", "right"),
        ("threshold", "right"), ("", "left"),
    ):  # fmt: skip
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # rich's literal
    for row in rows:
        if row["group"] != tenant:
            continue
        part = max(0.0, row["log_e"] / row["log_threshold"])
        table.add_row(
            row["group"] or "all", row["signal"], str(row["visit"]), str(row["units"]), f"{row['log_e']:.2f}",
            f"{row['log_threshold']:.2f}", f"{'█' * round(20 * min(part, 1.0))} {part:.0%}"
            if row["covered"]
            else "not judged: readings of one version are missing",
        )  # fmt: skip
    return table


def _chart(course: list[Json]) -> Iterable[str]:
    """Yield a line for each signal: its log e-value over its threshold, from then to now."""
    if len(course) < 2:
        return
    points = course[-100:]
    names = sorted({name for point in points for name in point["suspicion"]})
    minutes = (points[-1]["at_s"] - points[0]["at_s"]) / 60.0
    yield f"\nover the last {minutes:.1f} minutes (full height: a verdict)"
    for name in names:
        values = [max(0.0, min(point["suspicion"].get(name, 0.0), 1.0)) for point in points]
        yield f"  {name:<16}{''.join(_BARS[round(value * (len(_BARS) - 1))] for value in values)}"


def _show_entry(entry: Json) -> None:
    moment = datetime.fromtimestamp(entry["at_s"], UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    out.print(
        f"{moment}  {entry['model']} {entry['candidate']}  {entry['scope']}: {entry['before']} -> "
        f"{_coloured(entry['after'])}  ({entry['kind']}, {escape(entry['who'])})"
    )
    out.print(f"    {entry['why']}", markup=False)
