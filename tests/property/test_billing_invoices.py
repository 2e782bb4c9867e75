"""Whatever a ledger sums up: invoices add up, do not depend on order or on who was first, and no nanosecond is lost."""

import random
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.billing.cold_starts import cold_start_shares
from tenantry.core.billing.invoice import exact_amount, invoice, invoices
from tenantry.core.billing.operator import statement
from tenantry.core.billing.tallies import EngineTally, Tally
from tenantry.core.rules import Rules
from tenantry_testing.billing import PERIOD, rules, tally

TENANTS = ("acme", "globex", "initech")
MODELS = ("chat-8b", "embed")
NS = st.integers(0, 10**16)

USES = st.builds(
    tally,
    st.sampled_from(TENANTS),
    owner=st.sampled_from(["tenant", "tenant", "mirror", "failed", "unstamped", "unfinished"]),
    tier=st.sampled_from(["gold", "bronze", ""]),
    model=st.sampled_from(MODELS),
    version=st.sampled_from(["1", "2"]),
    adapter=st.sampled_from(["", "support"]),
    measured=st.sampled_from(["engine", "engine", "response", "estimate"]),
    corrects=st.sampled_from(["", "", "2026-10"]),
    hour=st.sampled_from([0, 3600]),
    requests=st.integers(-5, 1000),
    prefill_gpu_ns=NS,
    decode_gpu_ns=NS,
    compute_units_micro=st.integers(-(10**9), 10**13),
)
TRAININGS = st.builds(tally, st.sampled_from(TENANTS), kind=st.just("training"), prefill_gpu_ns=NS)
TALLIES = st.lists(USES | TRAININGS, max_size=25)
TIMES = st.dictionaries(st.sampled_from(MODELS), st.tuples(NS, NS, NS), max_size=2)
DIGITS = st.integers(0, 6)


def priced(digits: int = 2) -> Rules:
    return rules(billing={"operatorGpuHour": "0.93", "currencyDigits": digits})


def engines_of(tallies: list[Tally], times: dict[str, tuple[int, int, int]]) -> list[EngineTally]:
    """Return engines that account for the tallies' GPU time: idle, cold start and in flight as given."""
    made = []
    for model in MODELS:
        idle, cold, in_flight = times.get(model, (0, 0, 0))
        attributed = sum(each.gpu_ns for each in tallies if each.model == model and each.kind == "request")
        busy = attributed + in_flight
        made.append(
            EngineTally(
                period=PERIOD, model=model, wall_gpu_ns=idle + cold + busy, busy_gpu_ns=busy,
                cold_start_gpu_ns=cold, cold_starts=1, attributed_gpu_ns=attributed,
            )
        )  # fmt: skip
    return made


@given(TALLIES, TIMES, DIGITS)
def test_lines_add_up_to_their_total_in_the_smallest_unit(
    tallies: list[Tally], times: dict[str, tuple[int, int, int]], digits: int
) -> None:
    for bill in invoices(PERIOD, tallies, engines_of(tallies, times), priced(digits)):
        assert sum(Fraction(line.amount) for line in bill.lines) == Fraction(bill.total)
        exact = sum(map(exact_amount, bill.lines), Fraction(0))
        assert abs(Fraction(bill.total) - exact) <= Fraction(1, 2 * 10**digits)


@given(TALLIES, TIMES, st.randoms(use_true_random=False))
def test_the_order_of_tallies_changes_nothing(
    tallies: list[Tally], times: dict[str, tuple[int, int, int]], chance: random.Random
) -> None:
    engines = engines_of(tallies, times)
    shuffled = chance.sample(tallies, len(tallies))
    bills = invoices(PERIOD, tallies, engines, priced())
    assert invoices(PERIOD, shuffled, engines[::-1], priced()) == bills
    assert statement(PERIOD, shuffled, engines[::-1], bills, priced().billing) == statement(
        PERIOD, tallies, engines, bills, priced().billing
    )


@given(TALLIES, TIMES)
def test_finer_tallies_are_the_same_bill(tallies: list[Tally], times: dict[str, tuple[int, int, int]]) -> None:
    """A tally in two halves is the tally: an invoice does not depend on how the ledger grouped."""
    engines = engines_of(tallies, times)
    empty = [tally(each.tenant, owner=each.owner, tier=each.tier, kind=each.kind, corrects=each.corrects,
                   model=each.model, version=each.version, adapter=each.adapter, measured=each.measured)
             for each in tallies]  # fmt: skip
    assert invoices(PERIOD, tallies + empty, engines, priced()) == invoices(PERIOD, tallies, engines, priced())


@given(TALLIES, TIMES)
def test_tenants_operator_cold_start_and_idle_are_the_wall_to_the_nanosecond(
    tallies: list[Tally], times: dict[str, tuple[int, int, int]]
) -> None:
    engines = engines_of(tallies, times)
    bills = invoices(PERIOD, tallies, engines, priced())
    made = statement(PERIOD, tallies, engines, bills, priced().billing)
    assert made.conserved
    assert sum(made.gpu_time.parts.values()) == sum(engine.wall_gpu_ns for engine in engines)
    assert sum(cost.gpu_ns for cost in made.costs) == made.gpu_time.wall_ns
    billed = sum(line.gpu_ns for bill in bills for line in bill.lines if line.kind == "request")
    assert billed == made.gpu_time.tenants_ns
    shared = sum(line.gpu_ns for bill in bills for line in bill.lines if line.kind == "cold_start")
    assert shared == sum(one.spread_ns for one in made.cold_starts)
    assert shared + next(c.gpu_ns for c in made.costs if c.what == "cold_start_unused") == made.gpu_time.cold_start_ns


@given(TALLIES, TIMES)
def test_one_tenants_invoice_is_the_same_alone(tallies: list[Tally], times: dict[str, tuple[int, int, int]]) -> None:
    engines = engines_of(tallies, times)
    for bill in invoices(PERIOD, tallies, engines, priced()):
        assert invoice(PERIOD, bill.tenant, tallies, engines, priced()) == bill


@given(
    st.integers(1, 10**15), st.integers(0, 10**15), st.lists(USES, max_size=10), st.booleans(), st.integers(0, 10**7)
)
def test_equal_use_pays_equal_cold_starts_whoever_came_first(
    used: int, cold: int, others: list[Tally], globex_first: bool, units: int
) -> None:
    """One of the two came at the cold moment: its tallies are in an earlier hour. It pays what the other pays."""
    twins = [
        tally(tenant, tier="bronze", hour=3600 * index, decode_gpu_ns=used, compute_units_micro=10_000 + units)
        for index, tenant in enumerate(("globex", "initech") if globex_first else ("initech", "globex"))
    ]
    tallies = twins + [each for each in others if each.tenant == "acme"]
    engines = [EngineTally(period=PERIOD, model="chat-8b", cold_start_gpu_ns=cold, cold_starts=1, wall_gpu_ns=cold)]
    shares = cold_start_shares(PERIOD, tallies, engines).get("chat-8b", {})
    mine, theirs = (sum(shares.get(tenant, {}).values()) for tenant in ("globex", "initech"))
    assert abs(mine - theirs) <= 1
    bills = {bill.tenant: bill for bill in invoices(PERIOD, tallies, engines, priced())}
    one, other = (sum(map(exact_amount, bills[tenant].lines), Fraction(0)) for tenant in ("globex", "initech"))
    assert abs(one - other) <= max(one, other) / 100
    assert abs(bills["globex"].total - bills["initech"].total) <= Fraction(max(one, other)) / 100 + Fraction(1, 100)


def test_the_first_of_two_with_equal_use_pays_within_one_percent_of_the_other() -> None:
    use = {"tier": "bronze", "decode_gpu_ns": 3_600 * 10**9, "compute_units_micro": 9_000 * 10**6}
    engines = [EngineTally(period=PERIOD, model="chat-8b", cold_start_gpu_ns=333 * 10**9 + 1, cold_starts=1)]
    tallies = [tally("globex", hour=3600, **use), tally("initech", hour=7200, **use)]
    first, second = invoices(PERIOD, tallies, engines, priced())
    assert first.total > 27
    assert abs(first.total - second.total) <= first.total / 100
