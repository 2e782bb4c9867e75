"""The report for a terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo.live import milliseconds
from demo.report import Quantiles, Report


def print_report(report: Report, console: Console) -> None:
    """Print the tables and the expectations."""
    console.print(f"\n[bold]tenantry demo[/bold], engine: {report.engine}. {report.engine_note}")
    console.print(_tenants(report))
    if report.reload is not None:
        console.print(
            f"rules edited after {report.reload.at_s:.0f} s, live {report.reload.live_after_ms:.0f} ms later: "
            f"{report.reload.change}. Failed requests: {report.reload.failed_requests}"
        )
    table = Table(title="expectations", title_justify="left")
    table.add_column("held")
    table.add_column("what")
    table.add_column("measured")
    for expectation in report.expectations:
        held = "[green]yes[/green]" if expectation.held else "[red]NO[/red]"
        table.add_row(held, escape(expectation.what), escape(expectation.detail))
    console.print(table)
    failed = [expectation.what for expectation in report.expectations if not expectation.held]
    if failed:
        console.print(
            f"[red]{len(failed)} of {len(report.expectations)} expectations failed:[/red] {'; '.join(failed)}"
        )
    else:
        console.print(
            f"[green]all {len(report.expectations)} expectations held[/green]: {report.requests} requests, "
            f"{report.failed_requests} failed, {report.seconds:.0f} s"
        )


def _tenants(report: Report) -> Table:
    table = Table(title="tenants", title_justify="left")
    for header in ("tenant", "tier", "rule", "served by (requests)"):
        table.add_column(header)
    for header in (
        "TTFB p50 / p99",
        "TTFT p50 / p99",
        "tokens/s",
        "chunks",
        "messages per POST",
        "forged: sent",
        "reached",
    ):
        table.add_column(header, justify="right")
    for name, tenant in report.tenants.items():
        table.add_row(
            name,
            tenant.tier,
            tenant.rule,
            ", ".join(f"{version} ({count})" for version, count in tenant.versions.items()),
            _pair(tenant.ttfb_ms),
            _pair(tenant.ttft_ms),
            "-" if tenant.stream_tokens_per_s is None else f"{tenant.stream_tokens_per_s:.0f}",
            str(tenant.chunks),
            "-" if tenant.ext_proc_messages_per_request is None else f"{tenant.ext_proc_messages_per_request:g}",
            str(tenant.forged_headers_sent),
            str(tenant.forged_headers_upstream),
        )
    return table


def _pair(quantiles: Quantiles) -> str:
    return f"{milliseconds(quantiles.p50)} / {milliseconds(quantiles.p99)}"
