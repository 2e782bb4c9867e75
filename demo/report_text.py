"""The report for a terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo.live import narrow_table
from demo.report import Quantiles, Report, RolloutReport, VectorReport
from demo.report_bills import MeteringReport


def print_report(report: Report, console: Console) -> None:
    """Print the tables and the expectations."""
    console.print(f"\n[bold]tenantry demo[/bold], engine: {report.engine}. {report.engine_note}\n")
    console.print(_tenants(report), "")
    if (reload := report.reload) is not None:
        console.print(
            f"Rules edited after {reload.at_s:.0f} s, live {reload.live_after_ms:.0f} ms later: {reload.change}. "
            f"{reload.failed_requests} failed requests.\n"
        )
    for model, rollout in report.rollouts.items():
        if rollout.percent:
            console.print(_rollout(model, rollout) + "\n", markup=False)
    if report.metering.billed:
        console.print(_billed(report), "")
        console.print(_metering(report.metering) + "\n", markup=False)
    console.print(_vector(report.vector) + "\n", markup=False)
    checks = Table.grid(padding=(0, 2, 0, 0))
    for expectation in report.expectations:
        held = "[green]held[/green]" if expectation.held else "[red]FAILED[/red]"
        checks.add_row(held, f"{escape(expectation.what)}\n[dim]{escape(expectation.detail)}[/dim]")
    console.print(checks)
    failed = [expectation.what for expectation in report.expectations if not expectation.held]
    summary = f"{report.requests:,} requests, {report.failed_requests} failed, {report.seconds:.0f} s"
    if failed:
        console.print(f"\n[red]{len(failed)} of {len(report.expectations)} expectations failed[/red]: {summary}")
        for what in failed:
            console.print(f"  {escape(what)}")
    else:
        console.print(f"\n[green]All {len(report.expectations)} expectations held[/green]: {summary}")


def _tenants(report: Report) -> Table:
    table = narrow_table("tenant", "served by", "#TTFB, ms", "#TTFT, ms", "#tok/s", "#chunks", "#msgs", "#forged")
    for name, tenant in report.tenants.items():
        messages = tenant.ext_proc_messages_per_request
        table.add_row(
            f"{name}, {tenant.tier}",
            "\n".join(f"{version}: {count}" for version, count in tenant.versions.items()),
            _pair(tenant.ttfb_ms),
            _pair(tenant.ttft_ms),
            "-" if tenant.stream_tokens_per_s is None else f"{tenant.stream_tokens_per_s:.0f}",
            f"{tenant.chunks:,}",
            "-" if messages is None else f"{messages:g}",
            f"{tenant.forged_headers_sent} > {tenant.forged_headers_upstream}",
        )
    table.caption = "times: median, 99th percentile; msgs: ext_proc messages per POST; forged: sent > reached an engine"
    table.caption_justify = "left"
    return table


def _rollout(model: str, rollout: RolloutReport) -> str:
    text = (
        f"{model} {rollout.candidate}, {rollout.story}: {rollout.candidate_units} of {rollout.units:,} units "
        f"({rollout.candidate_share * 100:.1f} % at {rollout.percent:g} %), {rollout.state}."
    )
    if rollout.mirrored:
        text += f" {rollout.mirrored} copies mirrored."
    if (verdict := rollout.verdict) is not None:
        text += (
            f" Taken back by the {verdict.who} {verdict.seconds_after_start:.1f} s after its first request, by "
            f"{verdict.units_to_revert} units judged by {verdict.signal}; later it got {rollout.after_verdict}."
        )
    return text


def _billed(report: Report) -> Table:
    metering = report.metering
    table = narrow_table("tenant", "#answers", "#billed", "#GPU s", "#compute units", f"#{metering.charged.currency}")
    for name, billed in metering.billed.items():
        table.add_row(
            name, f"{billed.answered:,}", f"{billed.requests:,}", f"{billed.gpu_seconds:,.3f}",
            f"{billed.compute_units:,.3f}", billed.invoice.amount,
        )  # fmt: skip
    table.caption = "the ledger's, of all models; amounts with shares of cold starts"
    table.caption_justify = "left"
    return table


def _metering(metering: MeteringReport) -> str:
    parts = " + ".join(
        f"{part.replace('_', ' ')} {metering.gpu_ns[part] / 1e9:,.9f}"
        for part in ("tenants", "operator", "cold_start", "idle")
    )
    return (
        f"GPU time: {parts} = wall {metering.wall_gpu_seconds:,.9f} s, "
        f"{metering.unexplained_ns:,} ns without an owner. Tenants are charged {metering.charged.amount} "
        f"{metering.charged.currency}; it costs the operator {metering.cost.amount}."
    )


def _vector(vector: VectorReport) -> str:
    if vector.not_run:
        return f"Retrieval did not run: {vector.not_run}"
    outcomes = [attack.outcome for attack in vector.tried]
    return (
        f"Retrieval, {vector.engine} ({vector.standing}): {vector.queries} questions of {len(vector.tenants)} tenants "
        f"with look-alike documents, {vector.attacks} attacks ({outcomes.count('refused')} refused, "
        f"{outcomes.count('harmless')} harmless): {vector.foreign_rows} foreign rows, {vector.rows_lost} rows lost."
    )


def _pair(quantiles: Quantiles) -> str:
    return ", ".join("-" if value is None else f"{value:,.0f}" for value in (quantiles.p50, quantiles.p99))
