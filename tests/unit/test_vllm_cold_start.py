"""A cold start: phases within phases, workers side by side, and a sum that is always the whole."""

import time
from typing import Any

import pytest
from tenantry.core.usage import ColdStart
from tenantry_vllm import cold_start
from tenantry_vllm.cold_start import Phases, Stopwatch, age_ns, cold_start_record, note_process_start


def test_a_phase_within_another_is_not_counted_twice() -> None:
    now = [0]
    watch = Stopwatch(lambda: now[0])

    def download() -> None:
        now[0] += 30

    def load() -> str:
        now[0] += 5
        watch.timed("download", download)()
        now[0] += 7
        return "model"

    assert watch.timed("load", load)() == "model"
    watch.timed("warm_up", download)()
    watch.timed("warm_up", download)()
    assert watch.phases == {"load": 12, "download": 30, "warm_up": 60}


def test_a_phase_that_fails_was_one_all_the_same() -> None:
    now = [0]
    watch = Stopwatch(lambda: now[0])

    def load() -> None:
        now[0] += 5
        raise OSError("no such model")

    with pytest.raises(OSError, match="model"):
        watch.timed("load", load)()
    assert watch.phases == {"load": 5}
    assert watch._open == []


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ([], (0, 0, 0, 0, 100)),
        ([{"load": 20, "warm_up": 10}, {"load": 30, "warm_up": 11, "capture": 9}], (0, 30, 11, 9, 50)),
        ([{"download": 60, "load": 60}], (60, 40, 0, 0, 0)),  # more than there was: never more than the whole
        ([{"load": -5}], (0, 0, 0, 0, 100)),
    ],
)
def test_the_phases_add_up_to_the_whole(phases: list[Phases], expected: tuple[int, ...]) -> None:
    record = _record(phases)
    told = (record.download_ns, record.load_ns, record.warm_up_ns, record.capture_ns, record.other_ns)
    assert told == expected
    assert record.gpu_ns == 4 * 100


def test_the_start_is_that_of_the_first_process() -> None:
    environment: dict[str, str] = {}
    note_process_start(environment)
    first = dict(environment)
    parents = {"TENANTRY_STARTED_NS": "5"}
    note_process_start(parents)  # in a child
    assert parents == {"TENANTRY_STARTED_NS": "5"}
    assert 0 < age_ns(environment) < 3600 * 10**9
    time.sleep(0.02)
    assert age_ns(environment) - age_ns({"TENANTRY_STARTED_NS": str(int(first["TENANTRY_STARTED_NS"]) + 10**7)}) > 9e6


@pytest.mark.parametrize("nonsense", ["", "soon", "9" * 25])
def test_a_start_that_cannot_be_is_this_processs_own(nonsense: str) -> None:
    assert abs(age_ns({"TENANTRY_STARTED_NS": nonsense}) - age_ns({})) < 10**9


def test_where_proc_does_not_tell_it_begins_now(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_proc(*_: Any) -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(cold_start, "open", no_proc, raising=False)
    assert age_ns({}) < 10**9


def _record(phases: list[Phases]) -> ColdStart:
    return cold_start_record(engine="e", model="m", version="1", gpus=4, ended_s=1.0, wall_ns=100, phases=phases)
