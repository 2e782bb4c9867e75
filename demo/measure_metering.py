"""From what the ledger says to the report's part on metering. Pure. Sums are whole nanoseconds until they are shown."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from msgspec.structs import replace
from tenantry.core.billing.invoice import Invoice, Line
from tenantry.core.billing.operator import Statement

from demo.report import TenantReport
from demo.report_bills import AmountReport, BilledReport, InvoiceLineReport, MeteringReport
from demo.run import Books, Call, CrowdCall, Run

OPERATOR = ("mirror", "failed", "unstamped", "unfinished", "in_flight")
"""Parts of the busy time that no tenant pays for, as the statement names them."""

NS = 1_000_000_000
MICRO = 1_000_000


def metering_report(run: Run) -> MeteringReport:
    """Return the report; its figures are 0 where the ledger said nothing."""
    books = run.books
    statements = [bills.statement for bills in books.bills if bills.statement is not None]
    if not statements:
        return MeteringReport()
    spent = Counter[str]()
    for statement in statements:
        spent.update({**statement.gpu_time.parts, "wall": statement.gpu_time.wall_ns})
    spent["operator"] = sum(spent[part] for part in OPERATOR)
    currency = statements[-1].currency
    return MeteringReport(
        period=", ".join(statement.period for statement in statements),
        wall_gpu_seconds=spent["wall"] / NS,
        busy=(spent["tenants"] + spent["operator"]) / NS,
        idle=spent["idle"] / NS,
        cold_start=spent["cold_start"] / NS,
        tenants=spent["tenants"] / NS,
        operator=spent["operator"] / NS,
        mirror=spent["mirror"] / NS,
        conserved=conserved(books),
        unexplained_ns=unexplained_ns(statements),
        gpu_ns=dict(spent),
        cold_starts=sum(engine.cold_starts for engine in books.engines),
        mirrored=sum(tally.requests for tally in books.tallies if tally.owner == "mirror"),
        charged=_amount((statement.charged for statement in statements), currency),
        cost=_amount((statement.cost for statement in statements), currency),
        billed=_billed(run),
    )


def answered(run: Run) -> Counter[str]:
    """Return how many answers the clients of each tenant got from an engine."""
    calls: tuple[Call | CrowdCall, ...] = (*run.calls, *run.crowd_calls)
    return Counter(call.tenant for call in calls if call.status == 200)


def unexplained_ns(statements: Sequence[Statement]) -> int:
    """Return the GPU time that no part accounts for, and the busy time that is in no record: no sign makes it less."""
    in_flight_ns = sum(statement.gpu_time.in_flight_ns for statement in statements)
    return abs(in_flight_ns) + sum(abs(statement.gpu_time.difference_ns) for statement in statements)


def conserved(books: Books) -> bool:
    """Return whether every GPU-nanosecond has an owner, by two accounts: the requests' records and the engines' own.

    All engines have ended, so nothing is in flight: for each model and version what the records charge is what the
    engines were busy. And the statement says the same of each model, with cold starts and idle time.
    """
    charged, busy = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for tally in books.tallies:
        charged[tally.model, tally.version] += tally.gpu_ns
    for engine in books.engines:
        busy[engine.model, engine.version] += engine.busy_gpu_ns
    statements = [bills.statement for bills in books.bills]
    return (
        bool(statements)
        and charged == busy
        and all(
            statement is not None
            and statement.conserved
            and statement.gpu_time.wall_ns == sum(statement.gpu_time.parts.values()) > 0
            for statement in statements
        )
        and sum(statement.gpu_time.wall_ns for statement in statements if statement is not None)
        == sum(engine.wall_gpu_ns for engine in books.engines)
    )


def invoices(books: Books) -> dict[str, tuple[Invoice, ...]]:
    """Return the invoices by tenant: one, or one for each period that the play was in."""
    found: dict[str, tuple[Invoice, ...]] = {}
    for bills in books.bills:
        for invoice in bills.invoices:
            found[invoice.tenant] = (*found.get(invoice.tenant, ()), invoice)
    return dict(sorted(found.items()))


def with_usage(tenants: Mapping[str, TenantReport], metering: MeteringReport) -> dict[str, TenantReport]:
    """Return the tenants' reports with what the ledger has of them."""
    return {
        name: tenant
        if (billed := metering.billed.get(name)) is None
        else replace(tenant, gpu_seconds=billed.gpu_seconds, compute_units=billed.compute_units, invoice=billed.invoice)
        for name, tenant in tenants.items()
    }


def _billed(run: Run) -> dict[str, BilledReport]:
    """Return the parts of all tenants that were answered or billed."""
    got, bills = answered(run), invoices(run.books)
    currency = next((bill.currency for own in bills.values() for bill in own), "")
    return {
        name: _of_tenant(run.books, name, got[name], bills.get(name, ()), currency)
        for name in sorted(got.keys() | bills.keys())
    }


def _of_tenant(books: Books, name: str, got: int, bills: tuple[Invoice, ...], currency: str) -> BilledReport:
    own = [tally for tally in books.tallies if (tally.owner, tally.tenant) == ("tenant", name)]
    lines = [line for bill in bills for line in bill.lines]
    return BilledReport(
        answered=got,
        requests=sum(tally.requests for tally in own),
        gpu_seconds=sum(tally.gpu_ns for tally in own) / NS,
        cold_start_gpu_seconds=sum(line.gpu_ns for line in lines if line.kind == "cold_start") / NS,
        compute_units=sum(tally.compute_units_micro for tally in own) / MICRO,
        invoice=_amount((bill.total for bill in bills), currency),
        lines=[_line(line) for line in lines],
    )


def _line(line: Line) -> InvoiceLineReport:
    return InvoiceLineReport(
        kind=line.kind,
        model=line.model,
        version=line.version,
        tier=line.tier,
        requests=line.requests,
        input_tokens=line.input_tokens,
        cached_tokens=line.cached_tokens,
        output_tokens=line.output_tokens,
        gpu_seconds=line.gpu_ns / NS,
        compute_units=line.compute_units_micro / MICRO,
        compute_unit_price=format(line.compute_unit_price, "f"),
        gpu_hour_price=format(line.gpu_hour_price, "f"),
        amount=format(line.amount, "f"),
    )


def _amount(parts: Iterable[Decimal], currency: str) -> AmountReport:
    return AmountReport(amount=format(sum(parts, Decimal(0)), "f"), currency=currency)
