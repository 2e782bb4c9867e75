"""One tenant against the rest: whatever it does, the fleet stays; and whatever anybody does, memory stays bounded."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tenantry.core.rollout.books import REST_GROUPS
from tenantry.core.rollout.budget import VISIT_SHARES, Budget
from tenantry.core.rollout.evidence import COMPONENTS, LAYOUT, SHARE, Evidence, Ledger, Tally
from tenantry.core.rollout.guard import CORROBORATION_LOG_E, Guard
from tenantry.core.rollout.lone import LoneGuard
from tenantry.core.rollout.signals import SIGNALS, Observation, Pair, Sample
from tenantry.core.rollout.trial import Arm
from tenantry.core.rollout.verdicts import Plan

PLAN = Plan(warmup_requests=0)
SAMPLES = st.builds(
    Sample,
    failed=st.sampled_from([True, False, None]),
    ttft_ms=st.sampled_from([1.0, 100.0, 1e9, None]),
    time_per_token_ms=st.sampled_from([1.0, 1e9, None]),
    output_tokens=st.sampled_from([0, 100, 10**6, None]),
    finished=st.booleans(),
    repetitive=st.booleans(),
    mean_log_probability=st.sampled_from([-9.0, -0.5, None]),
)
DOINGS = st.tuples(
    st.sampled_from(["stable", "candidate", "pair"]), SAMPLES, SAMPLES, st.sampled_from([0.01, 0.05, 0.5, 0.99])
)


@settings(max_examples=40)
@given(st.lists(DOINGS, min_size=1, max_size=8), st.integers(0, 2**32))
def test_no_tenant_alone_trips_the_fleet(doings: list[tuple[str, Sample, Sample, float]], seed: int) -> None:
    """Mallory repeats doings of her choice with fresh units; the others see a healthy candidate."""
    guard = LoneGuard(Guard(PLAN, writer="one", evidence=Evidence(started_s=0.0)))
    dice = random.Random(seed)
    for number in range(400):
        kind, sample, copy, share = doings[number % len(doings)]
        unit = f"m{number}"
        if kind == "pair":
            verdicts = guard.observe(Pair(tenant="mallory", unit=unit, stable=sample, candidate=copy), 1.0)
        else:
            arm: Arm = "candidate" if kind == "candidate" else "stable"
            seen = Observation(tenant="mallory", unit=unit, arm=arm, share=share, sample=sample)
            verdicts = guard.observe(seen, 1.0)
        honest: Arm = "candidate" if dice.random() < 0.05 else "stable"
        seen = Observation(
            tenant=f"honest-{number % 3}",
            unit=str(number),
            arm=honest,
            share=0.05,
            sample=Sample(failed=False, ttft_ms=100.0 * 2.7 ** dice.gauss(0, 1), output_tokens=dice.randint(50, 500)),
        )
        verdicts += guard.observe(seen, 1.0)
        assert all(verdict.tenant == "mallory" for verdict in verdicts)


def tally(group: str, wealth: float) -> Tally:
    return Tally(
        group=group,
        visit=1,
        units=9,
        all_units=99,
        counted=(9,) * len(SIGNALS),
        since_s=0.0,
        log_wealth=tuple(wealth if place < LAYOUT[SHARE][0] else 0.0 for place in range(COMPONENTS)),
    )


@given(
    st.floats(0, 1e6),
    st.lists(st.floats(-1e3, CORROBORATION_LOG_E / 3 - 0.01), min_size=0, max_size=3),
)
def test_evidence_of_one_tenant_however_great_needs_that_of_others(wealth: float, others: list[float]) -> None:
    """Also when it comes from other replicas."""
    guard = Guard(PLAN, writer="one", evidence=Evidence(started_s=0.0))
    tallies = (tally("mallory", wealth), *(tally(f"t{index}", each) for index, each in enumerate(others)))
    evidence = Evidence(started_s=0.0, ledgers=(Ledger(sequence=1, writer="two", tallies=tallies),))
    assert {verdict.tenant for verdict in guard.merge(evidence, 1.0)} <= {"mallory"}


def test_two_tenants_with_evidence_do_trip_it() -> None:
    guard = Guard(PLAN, writer="one", evidence=Evidence(started_s=0.0))
    tallies = (tally("acme", 10.0), tally("globex", CORROBORATION_LOG_E + 0.01))
    evidence = Evidence(started_s=0.0, ledgers=(Ledger(sequence=1, writer="two", tallies=tallies),))
    assert {verdict.tenant for verdict in guard.merge(evidence, 1.0)} == {None}


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_all_state_is_bounded(seed: int) -> None:
    plan = Plan(budget=Budget(max_tenants=5), chapter_units=10**9)
    guard, dice = Guard(plan, writer="one", evidence=Evidence(started_s=0.0)), random.Random(seed)
    lone = LoneGuard(guard, max_units=50)
    for number in range(2_000):
        tenant, unit = f"t{dice.randrange(200)}", f"u{dice.randrange(500)}"
        sample = Sample(failed=dice.random() < 0.5, ttft_ms=dice.random(), output_tokens=3)
        candidate = dice.random() < 0.5
        lone.observe(
            Observation(tenant=tenant, unit=unit, arm="candidate" if candidate else "stable", share=0.5, sample=sample),
            float(number),
        )
        lone.observe(Pair(tenant=tenant, unit=unit, stable=sample, candidate=sample), float(number))
    groups = {row.group for row in guard.rows()} - {None}
    assert len(groups) <= 5 + REST_GROUPS
    assert len(lone._split) <= 100
    assert len(lone._pairs) <= 100
    assert len(guard._references) <= (5 + REST_GROUPS + 1) * len(SIGNALS)
    assert len(guard._stable) <= 5 + REST_GROUPS
    assert all(len(seen) <= 64 for seen in guard._stable._seen.values())
    (ledger,) = guard.evidence().ledgers
    assert len(ledger.tallies) <= (5 + REST_GROUPS) * len(VISIT_SHARES)
