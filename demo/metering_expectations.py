"""What must hold of the bills: every nanosecond has an owner, every answer is billed once, and the sums are right."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from tenantry.core.billing.invoice import Invoice, exact_amount

from demo.measure_metering import answered, invoices
from demo.report import Expectation
from demo.report_bills import MeteringReport
from demo.run import Run

FORBIDDEN = 403


def metering_expectations(run: Run, metering: MeteringReport) -> Iterator[Expectation]:
    """Return each expectation with whether it held."""
    yield _conservation(metering)
    yield _once(run)
    yield _time(metering)
    yield _sums(run)
    yield _own(run)
    if run.scenario.rollouts:
        yield _copies(run, metering)


def _conservation(metering: MeteringReport) -> Expectation:
    spent = Counter(metering.gpu_ns)
    return Expectation(
        what="every GPU-nanosecond has an owner: tenants + operator + cold start + idle = wall",
        held=metering.conserved and metering.unexplained_ns == 0,
        detail=f"{spent['tenants']:,} + {spent['operator']:,} + {spent['cold_start']:,} + {spent['idle']:,} = "
        f"{spent['wall']:,} ns of {metering.cold_starts} engines, {metering.unexplained_ns:,} ns unexplained",
    )


def _once(run: Run) -> Expectation:
    got, billed = answered(run), Counter[str]()
    for tally in run.books.tallies:
        if tally.owner == "tenant":
            billed[tally.tenant] += tally.requests
    differing = [
        f"{name} got {got[name]:,}" for name in sorted(got.keys() | billed.keys()) if got[name] != billed[name]
    ]
    return Expectation(
        what="every answer that a client got is billed once, to its tenant, and nothing else is",
        held=bool(got) and not differing,
        detail=", ".join(f"{name} {count:,}" for name, count in sorted(billed.items()))
        + f"; {sum(billed.values()):,} in all for {sum(got.values()):,} answers"
        + (f"; but {', '.join(differing)}" if differing else ""),
    )


def _time(metering: MeteringReport) -> Expectation:
    asked = {name: billed for name, billed in metering.billed.items() if billed.answered}
    return Expectation(
        what="every tenant that was answered has GPU time and compute units",
        held=bool(asked) and all(billed.gpu_seconds > 0 and billed.compute_units > 0 for billed in asked.values()),
        detail=", ".join(f"{name} {billed.gpu_seconds:.3f} s" for name, billed in asked.items()),
    )


def _sums(run: Run) -> Expectation:
    bills = [bill for own in invoices(run.books).values() for bill in own]
    wrong = sorted({bill.tenant for bill in bills if not _adds_up(bill)})
    statements = [bills.statement for bills in run.books.bills if bills.statement is not None]
    charged = sum((statement.charged for statement in statements), Decimal(0))
    lines = sum(len(bill.lines) for bill in bills)
    return Expectation(
        what="the lines of every invoice add up to its total, and the invoices to what tenants are charged",
        held=bool(bills)
        and all(bill.lines for bill in bills)
        and not wrong
        and charged == sum((bill.total for bill in bills), Decimal(0)),
        detail=f"{len(bills)} invoices with {lines} lines, {charged:f} {bills[0].currency if bills else ''} in all"
        + (f"; wrong: {', '.join(wrong)}" if wrong else ""),
    )


def _adds_up(bill: Invoice) -> bool:
    """Return whether the amounts add up, and each is within its last digit of what the line costs by its prices."""
    digit = Fraction(1, 10 ** -int(bill.total.as_tuple().exponent))
    return bill.total == sum((line.amount for line in bill.lines), Decimal(0)) and all(
        abs(Fraction(line.amount) - exact_amount(line)) < digit for line in bill.lines
    )


def _own(run: Run) -> Expectation:
    reader, other = (plan.name for plan in run.scenario.tenants[:2])
    seen = run.books.own
    bills = invoices(run.books).get(reader, ())
    same = seen.invoices == bills[-1:] and bool(bills) and seen.statement is None
    return Expectation(
        what="a tenant reads its own invoice with its own key, and nobody else's",
        held=same and run.books.foreign_status == FORBIDDEN,
        detail=f"{reader} reads {'what the operator reads of it' if same else 'something else'}; asked for {other}'s "
        f"it is answered {run.books.foreign_status}",
    )


def _copies(run: Run, metering: MeteringReport) -> Expectation:
    copies = sum(count.copies for count in run.engine_counts)
    return Expectation(
        what="mirrored copies are the operator's to pay",
        held=metering.mirrored == copies,
        detail=f"{metering.mirrored:,} copies in the ledger, {copies:,} by the engines' own count: "
        f"{metering.mirror:.3f} GPU-seconds",
    )
