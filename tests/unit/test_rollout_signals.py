"""What is read from an outcome, and which outcomes are whose fault."""

from math import inf, log, nan

import pytest
from tenantry.core.outcome import Ended
from tenantry.core.rollout.budget import VISIT_SHARES, Budget, chapter_share
from tenantry.core.rollout.signals import SIGNALS, Margins, Sample, failed

READ = {signal.name: signal.read for signal in SIGNALS}


@pytest.mark.parametrize(
    ("code", "ended", "verdict"),
    [
        (200, "completed", False),
        (200, "failed", True),  # cut short by the upstream
        (503, "completed", True),
        (0, "failed", True),
        (400, "completed", False),  # the client's fault, and an answer all the same
        (404, "completed", True),  # the sidecar knows the model: its engine does not
        (401, "completed", True),  # nor does it take the secret that it was given
        (422, "failed", False),
        (413, "completed", False),
        (408, "completed", True),  # Envoy: the upstream hung before its headers
        (429, "completed", True),  # the engine's queue is full
        (200, "aborted", None),
        (0, "aborted", None),
        (503, "aborted", None),
    ],
)
def test_whose_fault_it_was(code: int, ended: Ended, verdict: bool | None) -> None:
    assert failed(code, ended) is verdict


def test_larger_readings_are_worse() -> None:
    good = Sample(
        failed=False,
        ttft_ms=100.0,
        time_per_token_ms=20.0,
        output_tokens=400,
        finished=True,
        repetitive=False,
        mean_log_probability=-0.5,
    )
    bad = Sample(
        failed=True,
        ttft_ms=101.0,
        time_per_token_ms=21.0,
        output_tokens=399,
        finished=False,
        repetitive=True,
        mean_log_probability=-0.6,
    )
    for name, read in READ.items():
        worse, better = read(bad), read(good)
        assert worse is not None
        assert better is not None
        assert worse > better, name


@pytest.mark.parametrize("value", [nan, inf, -inf, 0.0, -3.0])
def test_a_record_with_nonsense_in_it_counts_as_not_known(value: float) -> None:
    sample = Sample(ttft_ms=value, time_per_token_ms=value)
    assert READ["ttft"](sample) is None
    assert READ["time_per_token"](sample) is None
    if value not in {0.0, -3.0}:
        assert READ["log_probability"](Sample(mean_log_probability=value)) is None


def test_an_answer_without_tokens_is_as_short_as_one_token() -> None:
    assert READ["length"](Sample(output_tokens=0)) == READ["length"](Sample(output_tokens=1)) == 0.0
    assert READ["length"](Sample(output_tokens=-1)) is None


def test_nothing_is_read_from_an_empty_sample() -> None:
    assert {name: read(Sample()) for name, read in READ.items()} == dict.fromkeys(READ)


def test_margins_in_the_units_of_the_readings() -> None:
    margins = Margins()
    assert {signal.name: round(signal.margin(margins), 3) for signal in SIGNALS} == {
        "errors": 2.0,
        "ttft": round(log(1.25), 3),
        "length": round(log(1 / 0.9), 3),
        "time_per_token": round(log(1.25), 3),
        "unfinished": 2.0,
        "repetition": 2.0,
        "log_probability": 0.1,
        "errors_paired": 2.0,
        "ttft_paired": round(log(1.25), 3),
        "length_paired": round(log(1 / 0.9), 3),
    }


@pytest.mark.parametrize(
    "margins",
    [
        {"error_odds": 0.5},
        {"ttft_ratio": 0.0},
        {"ttft_ratio": nan},
        {"output_length_ratio": 1.1},
        {"output_length_ratio": 0.0},
        {"log_probability_drop": -0.1},
    ],
)
def test_a_margin_that_asks_for_a_better_version_is_refused_by_name(margins: dict[str, float]) -> None:
    (name,) = margins
    with pytest.raises(ValueError, match=name):
        Margins(**margins)


def test_alpha_is_spent_once() -> None:
    """Over signals, visit classes, chapters, fleet and tenants, the thresholds' probabilities add up to alpha."""
    assert sum(signal.weight for signal in SIGNALS) == pytest.approx(1.0)
    assert sum(VISIT_SHARES.values()) == pytest.approx(1.0)
    assert sum(map(chapter_share, range(1, 100_000))) == pytest.approx(1.0, abs=1e-5)
    budget = Budget(alpha=0.01, max_tenants=50)
    leaves = [(signal.weight, visit, chapter) for signal in SIGNALS for visit in VISIT_SHARES for chapter in (1, 2, 3)]
    fleet = sum(2.718281828459045 ** -budget.fleet_threshold(*leaf) for leaf in leaves)
    tenants = sum(50 * 2.718281828459045 ** -budget.tenant_threshold(*leaf) for leaf in leaves)
    spent = sum(map(chapter_share, (1, 2, 3)))
    assert (fleet, tenants) == (pytest.approx(0.005 * spent), pytest.approx(0.005 * spent))


def test_stakes_are_divided_whole() -> None:
    for signal in SIGNALS:
        assert sum(signal.priors) == pytest.approx(1.0), signal.name
        assert len(signal.priors) == len(signal.tilts)
        assert all(tilt > 0 for tilt in signal.tilts)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, nan])
def test_alpha_is_a_probability(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        Budget(alpha=alpha)


def test_places_for_tenants_are_bounded() -> None:
    for places in (0, 10_001):
        with pytest.raises(ValueError, match="max_tenants"):
            Budget(max_tenants=places)
