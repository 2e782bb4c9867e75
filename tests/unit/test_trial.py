"""What a request is to a rollout goes out as metadata and comes back with the access log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.rollout.trial import Trial, read

TRIAL = Trial(rollout="r" * 16, candidate="1.5.0", arm="candidate", share=0.05, unit="00c0ffee00c0ffee")

names = st.text(min_size=1, max_size=20)
trials = st.builds(
    Trial,
    rollout=names,
    candidate=names,
    arm=st.sampled_from(["stable", "candidate"]),
    share=st.floats(0, 1),
    unit=names,
    mirror=st.booleans(),
    has_past=st.booleans(),
    limit_s=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
)


def test_the_metadata_are_texts_that_a_person_can_read() -> None:
    """Envoy's metadata go through JSON's types, where 0.05 need not stay what it was."""
    assert TRIAL.metadata() == {
        "rollout": "r" * 16,
        "candidate": "1.5.0",
        "arm": "candidate",
        "share": "0.05",
        "unit": "00c0ffee00c0ffee",
        "mirror": "no",
        "has_past": "no",
        "limit_s": "120.0",
    }


@given(trials)
def test_what_went_out_comes_back(trial: Trial) -> None:
    assert read(trial.metadata()) == trial
    assert read({"tenant": "acme", "enforced": "yes"} | trial.metadata()) == trial


def test_a_request_that_is_nothing_to_a_rollout_brings_none_back() -> None:
    assert read({}) is None
    assert read({"tenant": "acme", "version": "1.4.0", "reason": "pin"}) is None


@pytest.mark.parametrize("name", ["rollout", "candidate", "arm", "share", "unit", "limit_s"])
def test_what_is_not_whole_is_none(name: str) -> None:
    missing = {key: value for key, value in TRIAL.metadata().items() if key != name}
    assert read(missing) is None
    assert read(missing | {name: ""}) is None


@pytest.mark.parametrize(
    ("name", "garbage"),
    [
        ("arm", "both"),
        ("arm", "Candidate"),
        ("share", "5 %"),
        ("share", "-0.1"),
        ("share", "1.1"),
        ("share", "nan"),
        ("limit_s", "soon"),
        ("limit_s", "0"),
        ("limit_s", "-1"),
        ("limit_s", "nan"),
    ],
)
def test_what_is_not_understood_is_none(name: str, garbage: str) -> None:
    """An entry of another release's sidecar must not become evidence by guessing."""
    assert read(TRIAL.metadata() | {name: garbage}) is None


@given(st.dictionaries(st.sampled_from(sorted(TRIAL.metadata())), st.text(max_size=6)))
def test_garbage_is_a_trial_or_none_and_never_an_error(garbage: dict[str, str]) -> None:
    found = read(TRIAL.metadata() | garbage)
    assert found is None or (0.0 <= found.share <= 1.0 and found.limit_s > 0.0 and found.unit)
