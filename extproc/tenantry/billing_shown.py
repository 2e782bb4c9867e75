"""How bills look: usage tables, invoices and the operator's statement, for a terminal and as CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from rich.markup import escape
from rich.table import Table

from tenantry.core.billing.invoice import Invoice, Line
from tenantry.core.billing.money import decimal_of
from tenantry.core.billing.operator import Statement
from tenantry.core.billing.profile import Derivation
from tenantry.core.billing.statement import GPU_DIGITS, UNIT_DIGITS, UsageTable, Value, plain

_NAMES = {
    "requests": "requests",
    "input_tokens": "in",
    "cached_tokens": "cached",
    "output_tokens": "out",
    "gpu_seconds": "GPU s",
    "compute_units": "units",
}
"""What stands above a column of sums in a terminal; the others are for programs."""

_COSTS = {
    "tenants": "tenants' requests",
    "mirror": "copies of mirrored requests",
    "failed": "attempts that failed",
    "unstamped": "requests without a tenant",
    "unfinished": "requests that did not end",
    "in_flight": "in flight, or lost",
    "cold_start": "cold starts",
    "cold_start_unused": "cold starts that nobody used",
    "idle": "idle",
}


def usage_shown(table: UsageTable) -> Table:
    """Return a usage table for a terminal, with a sum at its end; columns that say nothing are left out."""
    records = table.records()
    keys = [column.name for column in table.columns if column.name not in _NAMES and column.kind in {"text", "time"}]
    shown = [key for key in keys if key not in {"kind", "owner", "measured"}]
    marked = any(str(record["measured"]) not in {"engine", ""} for record in records)
    made = _table([(key, "left") for key in shown] + [("paid by", "left")] + [("measured", "left")] * marked)
    for name in _NAMES.values():
        made.add_column(name, justify="right", no_wrap=True)
    for record in records:
        cells = [escape(plain(record[key])) for key in shown] + [_payer(record)]
        measured = str(record["measured"])
        cells += [f"[yellow]{escape(measured)}[/]" if measured not in {"engine", ""} else ""] * marked
        made.add_row(*cells, *(_figure(record[name]) for name in _NAMES))
    if len(records) > 1:
        made.add_section()
        sums = [sum((Decimal(str(record[name])) for record in records), Decimal(0)) for name in _NAMES]
        whole = [
            table.columns[[column.name for column in table.columns].index(name)].kind == "whole" for name in _NAMES
        ]
        made.add_row(
            "all", *[""] * (len(shown) + marked),
            *(_figure(int(each) if is_whole else each) for each, is_whole in zip(sums, whole, strict=True)),
        )  # fmt: skip
    return made


def usage_csv(table: UsageTable) -> str:
    """Return a usage table as CSV with a line of names (RFC 4180); figures are exact, times as in ISO 8601."""
    return _csv([[column.name for column in table.columns], *([plain(value) for value in row] for row in table.rows)])


def invoice_shown(invoice: Invoice) -> Iterator[str | Table]:
    """Yield what a terminal shows of one invoice."""
    state = "closed" if invoice.closed else "not closed: it may still grow"
    yield f"[bold]{escape(invoice.tenant)}[/], {invoice.period} ({state})"
    if not invoice.lines:
        yield "  nothing used"
        return
    made = _table([("", "left"), ("tier", "left"), ("requests", "right"), ("in", "right"), ("cached", "right")])
    for name in ("out", "GPU s", "units", "per unit", "per GPU-hour", invoice.currency):
        made.add_column(name, justify="right", no_wrap=True)
    for line in invoice.lines:
        tokens = (line.input_tokens, line.cached_tokens, line.output_tokens)
        counts = [_count(number) if line.kind == "request" else "" for number in (line.requests, *tokens)]
        made.add_row(
            escape(line_name(line)), escape(line.tier), *counts, _figure(decimal_of(line.gpu_ns, GPU_DIGITS)),
            _figure(decimal_of(line.compute_units_micro, UNIT_DIGITS)) if line.kind == "request" else "",
            _price(line.compute_unit_price), _price(line.gpu_hour_price), plain(line.amount),
        )  # fmt: skip
    made.add_section()
    made.add_row("total", *[""] * 9, f"[bold]{plain(invoice.total)}[/]")
    yield made
    if invoice.quota is not None:
        used = _figure(decimal_of(invoice.quota.used_micro, UNIT_DIGITS))
        allowed = invoice.quota.compute_units_per_period
        yield f"  quota: {used} of {allowed:,} compute units are used ({float(invoice.quota.share):.1%})"


def statement_shown(statement: Statement) -> Iterator[str | Table]:
    """Yield what a terminal shows of the operator's statement."""
    currency = statement.currency
    yield f"[bold]operator[/], {statement.period}: tenants are charged {plain(statement.charged)} {currency}"
    made = _table([("GPU time", "left"), ("paid by", "left"), ("GPU s", "right"), ("share", "right")])
    made.add_column(f"cost ({currency})", justify="right")
    wall_ns = statement.gpu_time.wall_ns
    for cost in statement.costs:
        if cost.gpu_ns:
            share = f"{cost.gpu_ns / wall_ns:.2%}" if wall_ns else ""
            seconds = _figure(decimal_of(cost.gpu_ns, GPU_DIGITS))
            made.add_row(_COSTS.get(cost.what, cost.what), cost.paid_by, seconds, share, plain(cost.cost))
    made.add_section()
    made.add_row("wall time x GPUs", "", _figure(decimal_of(wall_ns, GPU_DIGITS)), "", plain(statement.cost))
    yield made
    if statement.conserved:
        yield "  every GPU-nanosecond has an owner: the parts add up to wall time x GPUs"
    else:
        for model, time in statement.by_model.items():
            if time.difference_ns:
                yield (
                    f"  [red]{escape(model)}: engines' accounts and their requests' records differ by "
                    f"{time.difference_ns:,} GPU-ns[/]"
                )
    for cold in statement.cold_starts:
        held = _figure(decimal_of(cold.gpu_ns, GPU_DIGITS))
        yield f"  cold starts of {escape(cold.model)}: {cold.starts}, {held} GPU s; {plain(cold.amount)} {currency}"
    if statement.training_gpu_ns:
        yield f"  training, on GPUs of its own: {_figure(decimal_of(statement.training_gpu_ns, GPU_DIGITS))} GPU s"


def line_name(line: Line) -> str:
    """Return what a line is for, in words."""
    of = {"request": "", "training": "training of ", "cold_start": "share of cold starts of "}[line.kind]
    name = of + " ".join(part for part in (line.model, line.version, line.adapter) if part)
    if line.measured in {"estimate", "response"}:
        name += f" ({'estimated' if line.measured == 'estimate' else 'from responses'})"
    return f"correction of {line.corrects}: {name}" if line.corrects else name


def invoices_csv(invoices: Iterable[Invoice]) -> str:
    """Return the lines of invoices as CSV; figures are exact."""
    fields = Line.__struct_fields__
    rows = [["period", "tenant", "currency", "closed", *fields]]
    for invoice in invoices:
        for line in invoice.lines:
            values: list[Value] = [getattr(line, field) for field in fields]
            head = [invoice.period, invoice.tenant, invoice.currency, "yes" if invoice.closed else "no"]
            rows.append([*head, *map(plain, values)])
    return _csv(rows)


def profile_shown(derivation: Derivation, file: str, model: str) -> Iterator[str]:
    """Yield YAML to paste into the rules; how the number came about stands in its comments."""
    yield f"# {file}: {derivation.model_type}"
    width = max(len(part.what) for part in derivation.parts)
    for part in derivation.parts:
        times = f"{part.layers} x ({part.formula})" if part.layers > 1 else part.formula
        yield f"#   {part.what:<{width}}  {times} = {part.parameters:,}"
    yield f"# 2 FLOPs for each of {derivation.parameters:,} parameters that a token meets"
    yield f"# (not counted: attention, {derivation.context_gigaflops:g} more with 1,000 tokens of context)"
    for note in derivation.notes:
        yield f"# note: {note}"
    yield "models:"
    yield f"  {model}:"
    yield f"    profile: {{gigaflopsPerToken: {derivation.profile.gigaflops_per_token:g}}}"


def _csv(rows: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def _payer(record: dict[str, Value]) -> str:
    kind = "training" if record["kind"] == "training" else ""
    owner = str(record["owner"])
    who = "tenant" if owner == "tenant" else f"operator ({owner})"
    return f"{who}, {kind}" if kind else who


def _figure(value: Value) -> str:
    return f"{value:,.3f}" if isinstance(value, Decimal) else f"{value:,}"


def _count(number: int) -> str:
    return f"{number:,}"


def _price(price: Decimal) -> str:
    return plain(price) if price else ""


def _table(columns: Sequence[tuple[str, str]]) -> Table:
    made = Table(box=None, pad_edge=False)
    for name, justify in columns:
        made.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    return made
