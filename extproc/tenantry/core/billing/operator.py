"""The operator's statement: what tenants are charged, what they are not, and that together it is every GPU-nanosecond.

    tenants + mirror + failed + unstamped + unfinished + in flight + cold start + idle = wall time x GPUs

The first five are sums of request records, the other three and the right side come from the engines' own accounts of
their time. The two meet in `attributed`: what an engine's records account for. They agree to the nanosecond, or the
ledger lacks something; `GpuTime.difference_ns` is by how much.

`in flight` is busy time whose records are not there: of requests that go on (a part is late by seconds), or lost in a
crash. At the turn of a period it may be negative by as much as the period before had too many.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction

from msgspec import Struct

from tenantry.core.billing.cold_starts import cold_start_shares
from tenantry.core.billing.invoice import Invoice, Line, exact_amount
from tenantry.core.billing.money import for_gpu_time, rounded, total
from tenantry.core.billing.tallies import EngineTally, Tally
from tenantry.core.rules_billing import Billing


class GpuTime(Struct, frozen=True, kw_only=True):
    """How GPU time was spent, in nanoseconds; the parts in the order in which they are shown."""

    tenants_ns: int = 0
    mirror_ns: int = 0
    failed_ns: int = 0
    unstamped_ns: int = 0
    unfinished_ns: int = 0
    in_flight_ns: int = 0
    cold_start_ns: int = 0
    idle_ns: int = 0
    wall_ns: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """The parts by name, without the wall time that they add up to."""
        return {name.removesuffix("_ns"): getattr(self, name) for name in self.__struct_fields__[:-1]}

    @property
    def difference_ns(self) -> int:
        """Wall time that no part accounts for; 0, or the ledger lacks something."""
        return self.wall_ns - sum(self.parts.values())


class Cost(Struct, frozen=True, kw_only=True):
    """One part of the GPU time at `billing.operatorGpuHour`. `paid_by` is `tenants` or `operator`."""

    what: str
    paid_by: str
    gpu_ns: int
    cost: Decimal


class ColdStarts(Struct, frozen=True, kw_only=True):
    """One model's cold starts of the period: how many, what they held, and how much of it tenants pay for."""

    model: str
    starts: int
    gpu_ns: int
    spread_ns: int
    amount: Decimal


class Charged(Struct, frozen=True, kw_only=True):
    """What one tenant's invoice comes to."""

    tenant: str
    gpu_ns: int
    compute_units_micro: int
    amount: Decimal


class Statement(Struct, frozen=True, kw_only=True):
    """A period as the operator sees it. Money is in `currency`.

    `charged` is the sum of the invoices. `costs` are the parts of `gpu_time` at what a GPU-hour costs the operator and
    add up to `cost`; cold starts of models that no tenant used stand apart, as the operator's. `training_gpu_ns` was
    spent on the jobs' own GPUs, outside of that table. `conserved` is whether every nanosecond has an owner.
    """

    period: str
    currency: str
    closed: bool = False
    tenants: tuple[Charged, ...] = ()
    charged: Decimal
    gpu_time: GpuTime
    by_model: dict[str, GpuTime] = {}
    costs: tuple[Cost, ...] = ()
    cost: Decimal
    cold_starts: tuple[ColdStarts, ...] = ()
    training_gpu_ns: int = 0
    conserved: bool


class Bills(Struct, frozen=True, kw_only=True):
    """What somebody may see of a period: invoices by tenant's name, and for the operator the statement."""

    invoices: tuple[Invoice, ...] = ()
    statement: Statement | None = None


def statement(
    period: str, tallies: Iterable[Tally], engines: Iterable[EngineTally], invoices: Iterable[Invoice],
    billing: Billing, *, closed: bool = False,
) -> Statement:  # fmt: skip
    """Return the operator's statement; `invoices` are those of the same tallies."""
    sums = [tally for tally in tallies if tally.period == period]
    spans = [engine for engine in engines if engine.period == period]
    bills = list(invoices)
    by_model = _by_model(sums, spans)
    everything = _sum(by_model.values())
    digits = billing.currency_digits
    starts = tuple(_cold_starts(period, sums, spans, bills, digits))
    parts = _paid(everything, spread_ns=sum(model.spread_ns for model in starts))
    costs = rounded([for_gpu_time(gpu_ns, Decimal(billing.operator_gpu_hour)) for gpu_ns in parts.values()], digits)
    return Statement(
        period=period,
        currency=billing.currency,
        closed=closed,
        tenants=tuple(_charged(bill) for bill in bills),
        charged=total([bill.total for bill in bills], digits),
        gpu_time=everything,
        by_model=by_model,
        costs=tuple(
            Cost(what=what, paid_by=_payer(what), gpu_ns=gpu_ns, cost=cost)
            for (what, gpu_ns), cost in zip(parts.items(), costs, strict=True)
        ),
        cost=total(costs, digits),
        cold_starts=starts,
        training_gpu_ns=sum(tally.gpu_ns for tally in sums if tally.kind == "training"),
        conserved=all(time.difference_ns == 0 for time in by_model.values()),
    )


def _paid(time: GpuTime, *, spread_ns: int) -> dict[str, int]:
    """Return the parts with cold starts as those that tenants share, and the others."""
    parts = time.parts
    idle_ns = parts.pop("idle")
    return parts | {"cold_start": spread_ns, "cold_start_unused": time.cold_start_ns - spread_ns, "idle": idle_ns}


def _payer(what: str) -> str:
    return "tenants" if what in {"tenants", "cold_start"} else "operator"


def _by_model(tallies: list[Tally], engines: list[EngineTally]) -> dict[str, GpuTime]:
    """Return each model's time. `in_flight` is from the engines' own figures: the records are checked, not assumed."""
    spent: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(GpuTime.__struct_fields__, 0))
    for tally in tallies:
        if tally.kind == "request":
            spent[tally.model]["tenants_ns" if tally.owner == "tenant" else f"{tally.owner}_ns"] += tally.gpu_ns
    for engine in engines:
        model = spent[engine.model]
        model["in_flight_ns"] += engine.busy_gpu_ns - engine.attributed_gpu_ns
        model["cold_start_ns"] += engine.cold_start_gpu_ns
        model["idle_ns"] += engine.idle_gpu_ns
        model["wall_ns"] += engine.wall_gpu_ns
    return {name: GpuTime(**spent[name]) for name in sorted(spent)}


def _sum(times: Iterable[GpuTime]) -> GpuTime:
    listed = list(times)
    return GpuTime(**{name: sum(getattr(time, name) for time in listed) for name in GpuTime.__struct_fields__})


def _charged(bill: Invoice) -> Charged:
    return Charged(
        tenant=bill.tenant,
        gpu_ns=sum(line.gpu_ns for line in bill.lines),
        compute_units_micro=sum(line.compute_units_micro for line in bill.lines),
        amount=bill.total,
    )


def _cold_starts(
    period: str, tallies: list[Tally], engines: list[EngineTally], bills: list[Invoice], digits: int
) -> Iterator[ColdStarts]:
    """Yield each model that started; amounts are exact sums, rounded together."""
    shares = cold_start_shares(period, tallies, engines)
    starts: Mapping[str, list[int]] = defaultdict(lambda: [0, 0])
    for engine in engines:
        starts[engine.model][0] += engine.cold_starts
        starts[engine.model][1] += engine.cold_start_gpu_ns
    models = sorted(model for model, counts in starts.items() if any(counts))
    amounts = rounded([sum(map(exact_amount, _lines(bills, model)), Fraction(0)) for model in models], digits)
    for model, amount in zip(models, amounts, strict=True):
        spread = sum(sum(tiers.values()) for tiers in shares.get(model, {}).values())
        count, gpu_ns = starts[model]
        yield ColdStarts(model=model, starts=count, gpu_ns=gpu_ns, spread_ns=spread, amount=amount)


def _lines(bills: list[Invoice], model: str) -> Iterator[Line]:
    return (line for bill in bills for line in bill.lines if line.kind == "cold_start" and line.model == model)
