"""The table while it runs: on a terminal it lives, elsewhere it is printed every ten seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from demo.joined import Joined
from demo.measure import tenant_report
from demo.play import Play, Show
from demo.report import TenantReport

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

    def show(play: Play) -> None:
        nonlocal printed_s
        if time.time() >= printed_s + PRINT_SECONDS:
            printed_s = time.time()
            console.print(_screen(play))

    yield show


def _screen(play: Play) -> RenderableType:
    now_s = time.time()
    run = play.record(0.0)
    joined = Joined(run)
    table = Table(title=_title(play, now_s), title_justify="left", expand=False)
    for header in ("tenant", "tier", "rule", "served by, now"):
        table.add_column(header)
    for header in ("requests", "TTFB p50", "TTFT p50", "tokens/s", "priority", "forged: sent", "reached"):
        table.add_column(header, justify="right")
    recent: dict[str, set[str]] = {}
    for call, arrival in joined.served(run.calls):
        if arrival.time_s > now_s - RECENT_S:
            recent.setdefault(call.tenant, set()).add(arrival.version)
    for plan in run.scenario.tenants:
        report = tenant_report(joined, plan)
        table.add_row(*_row(plan.name, report, recent.get(plan.name, set())))
    failed = sum(bool(call.error) for call in run.calls)
    return Group(table, Text(f"{len(run.calls)} requests, {failed} failed", style="red" if failed else "green"))


def _title(play: Play, now_s: float) -> str:
    at_s = f"{max(0.0, now_s - play.begin_s):.0f} s of {play.end_s - play.begin_s:.0f} s"
    if play.reload is not None:
        return f"{at_s}  rules edited, live after {(play.reload.live_s - play.reload.saved_s) * 1e3:.0f} ms"
    return f"{at_s}  rules: {'being edited' if play.saved else 'first document'}"


def _row(name: str, report: TenantReport, recent: set[str]) -> Iterator[str]:
    yield name
    yield report.tier
    yield report.rule
    yield " and ".join(sorted(recent)) or "-"
    yield str(report.requests)
    yield milliseconds(report.ttfb_ms.p50)
    yield milliseconds(report.ttft_ms.p50)
    yield "-" if report.stream_tokens_per_s is None else f"{report.stream_tokens_per_s:.0f}"
    yield " ".join(map(str, report.priority_upstream)) or "-"
    yield str(report.forged_headers_sent)
    yield str(report.forged_headers_upstream)


def milliseconds(value: float | None) -> str:
    """Write a time for a table."""
    return "-" if value is None else f"{value:.0f} ms"
