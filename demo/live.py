"""The table while it runs: on a terminal it lives, elsewhere it is printed every ten seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from demo.joined import Joined
from demo.measure import tenant_report
from demo.play import Play, RolloutNow, Show
from demo.report import TenantReport
from demo.run import Call, CrowdCall

PRINT_SECONDS = 10.0
RECENT_S = 3.0


class Progress:
    """Says what is being started: on a terminal in one line that changes, elsewhere line by line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("starting") if console.is_terminal else None
        if self._status is not None:
            self._status.start()

    def say(self, text: str) -> None:
        """Show what is going on."""
        if self._status is None:
            self._console.print(text, markup=False)
        else:
            self._status.update(escape(text))

    def done(self) -> None:
        """Clear the line."""
        if self._status is not None:
            self._status.stop()


@contextmanager
def showing(console: Console) -> Iterator[Show]:
    """Yield the function that shows a run under way."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield lambda play: live.update(_screen(play))
        return
    printed_s = time.time()

    states: dict[str, str] = {}

    def show(play: Play) -> None:
        nonlocal printed_s
        for now in play.rollouts_now():
            if states.setdefault(now.model, now.state) != now.state:
                states[now.model] = now.state
                console.print(Text(_rollout(play, now)))
        if time.time() >= printed_s + PRINT_SECONDS:
            printed_s = time.time()
            console.print(_screen(play))

    yield show


def _screen(play: Play) -> RenderableType:
    now_s = time.time()
    run = play.record(0.0)
    joined = Joined(run)
    recent: dict[str, set[str]] = {}
    for call, arrival in joined.served(run.calls):
        if arrival.time_s > now_s - RECENT_S:
            recent.setdefault(call.tenant, set()).add(arrival.version)
    table = narrow_table("tenant", "tier", "rule", "now by", "#reqs", "#TTFB", "#TTFT", "#tok/s", "#prio", "#forged")
    for plan in run.scenario.tenants:
        table.add_row(*_row(plan.name, tenant_report(joined, plan), recent.get(plan.name, set())))
    calls: tuple[Call | CrowdCall, ...] = (*run.calls, *run.crowd_calls)
    failed = sum(bool(call.error) for call in calls)
    total = Text(f" {len(calls):,} requests, {failed} failed", style="red" if failed else "green")
    legend = Text(" medians; forged: headers sent > reached an engine", style="dim")
    rollouts = [
        Text(_rollout(play, now), style="bold red" if now.state == "reverted" else "") for now in play.rollouts_now()
    ]
    return Group(Text(_state(play, now_s), style="bold"), table, total, legend, *rollouts)


def _state(play: Play, now_s: float) -> str:
    at_s = f" {max(0.0, now_s - play.begin_s):2.0f} of {play.end_s - play.begin_s:.0f} s"
    if play.reload is not None:
        return f"{at_s}   rules edited, live after {(play.reload.live_s - play.reload.saved_s) * 1e3:.0f} ms"
    return f"{at_s}   rules: {'being edited' if play.saved else 'first document'}"


def _rollout(play: Play, now: RolloutNow) -> str:
    share = f", {100 * now.units / now.all_units:.1f} % of {now.all_units:,} units" if now.all_units else ""
    state = now.state.upper() if now.state == "reverted" else now.state
    text = f" {now.model} {now.candidate} {state} (split {now.percent:g} %){share}"
    if now.state != "reverted":
        return f"{text}, evidence against it {100 * now.suspicion:.0f} % of a verdict"
    return f"{text}, at {max(0.0, now.since_s - play.begin_s):.0f} s: everybody gets {now.stable}"


def _row(name: str, report: TenantReport, recent: set[str]) -> Iterator[str]:
    yield name
    yield report.tier
    yield report.rule
    yield " ".join(sorted(recent)) or "-"
    yield str(report.requests)
    yield _milliseconds(report.ttfb_ms.p50)
    yield _milliseconds(report.ttft_ms.p50)
    yield "-" if report.stream_tokens_per_s is None else f"{report.stream_tokens_per_s:.0f}"
    yield " ".join(map(str, report.priority_upstream)) or "-"
    yield f"{report.forged_headers_sent} > {report.forged_headers_upstream}"


def narrow_table(*columns: str) -> Table:
    """Return a table that fits 80 columns; the titles that begin with # stand over numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        numbers = column.startswith("#")
        table.add_column(column.lstrip("#"), justify="right" if numbers else "left", no_wrap=numbers)
    return table


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
