"""The lane to the ledger, step by step on a clock of its own: outages, refusals, strangers, the dead."""

import errno
import time
from http.client import BadStatusLine
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from msgspec.structs import replace
from tenantry_testing.spools import SMALL, FakeLedger, Log, claimed, fill, payload, spooling
from tenantry_vllm.ledger_lane import LaneLimits, LedgerLane
from tenantry_vllm.sidecar_http import Answer, TokenError
from tenantry_vllm.spool import Spool
from tenantry_vllm.spool_folder import Folder
from tenantry_vllm.spool_reader import SpoolReader

BIG = replace(SMALL, segment_bytes=400_000)
DEFAULT = LaneLimits()
HOUR_S = 3600.0


class Steps:
    """A lane whose time passes only while it waits."""

    def __init__(
        self, root: Path, ledger: FakeLedger, spool: Spool | None = None, *, limits: LaneLimits = DEFAULT
    ) -> None:
        self.now_s = 0.0
        self.log = Log()
        self.root = root
        self.spool = spool
        self.lane = LedgerLane(
            root, self.own, ledger.connect, log=self.log, limits=limits, clock=lambda: self.now_s,
            wall_clock=lambda: 1.0e9 + self.now_s,
        )  # fmt: skip

    def own(self) -> SpoolReader | None:
        if self.spool is None or self.spool.folder is None:
            return None
        return SpoolReader(
            self.spool.folder, log=self.log, segments=self.spool.segments, released=self.spool.released,
            clock=lambda: self.now_s,
        )  # fmt: skip

    def run(self, for_s: float) -> list[float]:
        """Step for so long on the lane's clock; return the waits."""
        end_s, waits = self.now_s + for_s, []
        while self.now_s < end_s:
            waits.append(self.lane.step())
            self.now_s += waits[-1]
        return waits


def test_what_a_dead_process_left_is_shipped_and_its_folder_goes(tmp_path: Path) -> None:
    fill(tmp_path, range(30), engine="dead-1")
    fill(tmp_path, range(30, 40), engine="dead-2")
    ledger = FakeLedger()
    steps = Steps(tmp_path, ledger)
    steps.run(5.0)
    assert ledger.numbers == list(range(40))
    assert set(ledger.came.values()) == {1}
    assert steps.lane.acknowledged == 40
    assert list(tmp_path.iterdir()) == []
    assert len(steps.log.having("is gone: its last")) == 2
    assert ledger.posts == 2


def test_a_process_that_dies_later_on_the_same_disk_is_taken_over_too(tmp_path: Path) -> None:
    ledger = FakeLedger()
    with spooling(tmp_path, "e-1") as mine, spooling(tmp_path, "e-2") as other:
        steps = Steps(tmp_path, ledger, mine)
        other.append(payload(5))
        assert other.wait_fsynced(0, 5.0)
        steps.run(70.0)
        assert ledger.numbers == [], "it lives, and ships for itself"
    steps.run(70.0)
    assert ledger.numbers == [5]


def test_many_dead_processes_are_taken_over_a_few_at_a_time(tmp_path: Path) -> None:
    for number in range(11):
        fill(tmp_path, range(number, number + 1), engine=f"dead-{number}")
    ledger = FakeLedger()
    ledger.behaves = 503
    steps = Steps(tmp_path, ledger)
    steps.run(100.0)
    assert len(steps.lane._adopted) == 4
    ledger.behaves = 200
    steps.run(32.0)
    assert ledger.numbers == list(range(11))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_looked_into_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, range(3))

    def broken(_: Folder) -> dict[int, int]:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "segments", broken)
        steps = Steps(tmp_path, FakeLedger())
        steps.run(5.0)
    assert steps.log.having("cannot be searched for what dead processes left")
    claimed(tmp_path / "e-1").close()


def test_a_batch_holds_to_both_bounds(tmp_path: Path) -> None:
    fill(tmp_path, range(100), limits=BIG)
    sizes: list[int] = []

    class Measuring(FakeLedger):
        def post(self, body: bytes) -> Answer:
            sizes.append(len(body))
            return super().post(body)

    ledger = Measuring()
    steps = Steps(tmp_path, ledger, limits=LaneLimits(batch_bytes=10_000, batch_records=50))
    steps.run(5.0)
    assert ledger.numbers == list(range(100))
    assert max(sizes) <= 10_000
    fill(tmp_path, range(100, 200), limits=BIG)
    before = ledger.posts
    Steps(tmp_path, ledger, limits=LaneLimits(batch_records=7)).run(1.0)
    assert ledger.posts - before == 15
    assert len(ledger.came) == 200


@pytest.mark.parametrize(
    ("behaves", "says"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "was not reached"),
        (TokenError("token.txt must hold one token"), "must hold one token"),
        (BadStatusLine("SECRET"), "does not answer in HTTP: BadStatusLine"),
        (RuntimeError("SECRET"), "was not reached: RuntimeError"),
        (503, "answers 503"),
        (401, "refuses the token with 401"),
        (403, "refuses this engine with 403"),
        (404, "is no ledger of this version"),
        (400, "is no ledger of this version"),
        (413, "is no ledger of this version"),
        (204, "answers 204"),
        ("lost", "was not reached: timed out"),
    ],
)
def test_whatever_goes_wrong_records_wait_and_are_counted_once(
    tmp_path: Path, behaves: int | Exception | str, says: str
) -> None:
    fill(tmp_path, range(30), limits=BIG)
    ledger = FakeLedger()
    ledger.behaves = behaves
    steps = Steps(tmp_path, ledger)
    waits = steps.run(300.0)
    assert steps.lane.acknowledged == 0
    assert max(waits) == 30.0, "it doubles, and has a bound"
    assert sorted(waits) == waits or behaves == 413
    assert ledger.posts <= 25
    assert len(steps.log.having("none is lost")) == 1, "said once"
    assert says in steps.lane.trouble
    assert "SECRET" not in " ".join(steps.log)
    ledger.behaves = 200
    steps.run(40.0)
    assert ledger.numbers == list(range(30))
    assert steps.lane.acknowledged == 30
    assert steps.log[-1] == "The ledger takes usage records again."
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "ok", "{}", '{"new":1}', '{"new":29,"known":0}', '{"new":"30","known":0}'])
def test_a_200_of_something_else_acknowledges_nothing(tmp_path: Path, text: str) -> None:
    fill(tmp_path, range(30), limits=BIG)

    class Stranger(FakeLedger):
        def post(self, body: bytes) -> Answer:
            return Answer(status=200, text=text)

    steps = Steps(tmp_path, Stranger())
    steps.run(100.0)
    assert steps.lane.acknowledged == 0
    ledger = FakeLedger()
    steps.lane.close()
    Steps(tmp_path, ledger).run(5.0)
    assert ledger.numbers == list(range(30))


def test_48_hours_without_a_ledger_lose_nothing_and_take_no_memory(tmp_path: Path) -> None:
    """A record every ten minutes keeps the test short; what counts is the time, the restarts and the backlog."""
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else tmp_path) as folder:
        root, ledger, sent = Path(folder), FakeLedger(), 0
        ledger.behaves = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        for start in range(4):  # the engine restarts every 12 hours
            with spooling(root, f"e-{start}") as spool:
                steps = Steps(root, ledger, spool)
                for _ in range(72):
                    spool.append(payload(sent))
                    assert spool.wait_fsynced(spool.appended - 1, 5.0)
                    sent += 1
                    steps.run(HOUR_S / 6)
                held = sum(len(reader._waiting) for reader in steps.lane._readers())
                assert held <= sent
                assert len(steps.log.having("none is lost")) <= 75, "every ten minutes at most"
                assert steps.lane.waiting_bytes > 600 * sent
                for reader in steps.lane._adopted:
                    reader.folder.close()  # as the end of the process
        with spooling(root, "e-4") as spool:
            ledger.behaves = 200
            steps = Steps(root, ledger, spool)
            began_s = time.monotonic()
            steps.run(1.0)
            assert time.monotonic() < began_s + 2.0
            assert ledger.numbers == list(range(sent))
            assert set(ledger.came.values()) == {1}
            assert spool.folder is not None
            assert [path.name for path in root.iterdir()] == ["e-4"]


def test_a_backlog_is_read_in_bounded_pieces(tmp_path: Path) -> None:
    fill(tmp_path, range(3_000), limits=replace(SMALL, spool_bytes=10**8, segment_bytes=10**7, memory_bytes=10**8))
    ledger = FakeLedger()
    ledger.behaves = 503
    steps = Steps(tmp_path, ledger, limits=LaneLimits(batch_records=10))
    steps.run(3 * HOUR_S)
    held = sum(len(waiting.entry.payload) for waiting in steps.lane._adopted[0]._waiting)
    assert held < 1_100_000, "a chunk, not the file"
    assert steps.lane.waiting_bytes > 1_900_000


@pytest.mark.parametrize("names_bad", [True, False])
def test_a_record_that_is_refused_for_ever_is_parked_and_the_rest_goes_on(tmp_path: Path, *, names_bad: bool) -> None:
    fill(tmp_path, range(100), limits=BIG)
    ledger = FakeLedger()
    ledger.names_bad = names_bad
    ledger.hates = {0, 41, 42, 99}
    steps = Steps(tmp_path, ledger)
    waits = steps.run(5.0)
    assert ledger.numbers == [number for number in range(100) if number not in ledger.hates]
    assert set(ledger.came.values()) == {1}
    assert (steps.lane.refused, steps.lane.acknowledged) == (4, 96)
    assert ledger.posts < (30 if names_bad else 60)
    assert waits[: ledger.posts] == [0.0] * ledger.posts, "a refusal is no outage"
    lines = [msgspec.json.decode(line) for line in (tmp_path / "refused" / "e-1.jsonl").read_bytes().splitlines()]
    assert [int(line["record"]["request_id"], 16) for line in lines] == [0, 41, 42, 99]
    assert lines[1]["status"] == 400
    assert lines[1]["error"].endswith("is hated")
    assert lines[1]["refused_s"] == 1.0e9
    assert len(steps.log.having("NOT billed")) == 4
    assert not (tmp_path / "e-1").exists()


def test_all_refused_holds_up_nothing_either(tmp_path: Path) -> None:
    fill(tmp_path, range(50), limits=BIG)
    ledger = FakeLedger()
    ledger.hates = set(range(50))
    steps = Steps(tmp_path, ledger)
    steps.run(5.0)
    assert steps.lane.refused == 50
    assert ledger.posts < 120


def test_a_line_that_broke_off_spoils_no_other(tmp_path: Path) -> None:
    fill(tmp_path, range(2), limits=BIG)
    (tmp_path / "refused").mkdir()
    (tmp_path / "refused" / "e-1.jsonl").write_bytes(b'{"refused_s":1}\n{"refus')
    ledger = FakeLedger()
    ledger.hates = {0, 1}
    Steps(tmp_path, ledger).run(1.0)
    lines = (tmp_path / "refused" / "e-1.jsonl").read_bytes().splitlines()
    assert len(lines) == 4
    assert [b'"is hated' in line or b"is hated" in line for line in lines] == [False, False, True, True]


def test_a_refused_record_stays_in_the_spool_until_it_can_be_parked(tmp_path: Path) -> None:
    fill(tmp_path, range(3), limits=BIG)
    fill(tmp_path, range(10, 13), engine="e-2", limits=BIG)
    (tmp_path / "refused").touch()  # no folder can be made there
    ledger = FakeLedger()
    ledger.hates = {1}
    steps = Steps(tmp_path, ledger)
    steps.run(60.0)
    assert ledger.numbers == [0, 10, 11, 12], "the other folder is not held up"
    assert "refused/ not written" in steps.lane.trouble
    (tmp_path / "refused").unlink()
    steps.run(60.0)
    assert ledger.numbers == [0, 2, 10, 11, 12]
    assert steps.lane.refused == 1


def test_a_body_too_large_for_the_ledger_is_halved(tmp_path: Path) -> None:
    fill(tmp_path, range(40), limits=BIG)

    class Narrow(FakeLedger):
        def post(self, body: bytes) -> Answer:
            if len(body) > 5_000:
                return Answer(status=413, text="Maximum request body size 5000 exceeded")
            return super().post(body)

    ledger = Narrow()
    steps = Steps(tmp_path, ledger)
    steps.run(1.0)
    assert ledger.numbers == list(range(40))
    assert steps.lane.refused == 0


def test_a_long_backlog_does_not_hold_up_what_is_new(tmp_path: Path) -> None:
    fill(tmp_path, range(100), engine="dead", limits=BIG)
    ledger = FakeLedger()
    with spooling(tmp_path) as spool:
        spool.append(payload(500))
        assert spool.wait_fsynced(0, 5.0)
        steps = Steps(tmp_path, ledger, spool, limits=LaneLimits(batch_records=5))
        for _ in range(3):
            steps.lane.step()
        assert 500 in ledger.numbers
        assert 0 in ledger.numbers
        assert len(ledger.came) <= 11


def test_what_is_new_does_not_hold_up_a_backlog_either(tmp_path: Path) -> None:
    fill(tmp_path, range(10), engine="dead", limits=BIG)
    ledger = FakeLedger()
    with spooling(tmp_path) as spool:
        steps = Steps(tmp_path, ledger, spool, limits=LaneLimits(batch_records=5))
        for turn in range(6):  # there is always something new
            for number in range(5):
                place = spool.append(payload(100 + 5 * turn + number))
                assert place is not None
                assert spool.wait_fsynced(place, 5.0)
            steps.lane.step()
        assert set(range(10)) <= set(ledger.numbers)


def test_each_try_after_a_failure_looks_for_the_ledger_anew(tmp_path: Path) -> None:
    fill(tmp_path, range(20), limits=BIG)
    ledger = FakeLedger()
    connects: list[int] = []
    ledger.behaves = 503

    def connect() -> FakeLedger:
        connects.append(ledger.posts)
        return ledger

    lane = LedgerLane(
        tmp_path, lambda: None, connect, log=Log(), limits=LaneLimits(batch_records=5), clock=lambda: 0.0
    )  # fmt: skip
    for _ in range(3):
        lane.step()
    ledger.behaves = 200
    for _ in range(4):
        lane.step()
    assert connects == [0, 1, 2, 3], "and keeps a connection that works"


def test_jitter_shortens_waits_so_that_a_fleet_is_not_in_step(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    ledger = FakeLedger()
    ledger.behaves = 503
    lane = LedgerLane(tmp_path, lambda: None, ledger.connect, log=Log(), jitter=lambda: 0.5, clock=lambda: 0.0)
    assert [lane.step() for _ in range(9)] == [0.1875, 0.375, 0.75, 1.5, 3.0, 6.0, 12.0, 22.5, 22.5]


def test_a_full_disk_does_not_keep_the_ledger_from_making_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor cannot be written, yet segments go once the ledger has them; the rest is sent again at worst."""
    fill(tmp_path, range(30))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tenantry_vllm.spool_folder.write_whole", full)
    ledger = FakeLedger()
    steps = Steps(tmp_path, ledger)
    steps.run(5.0)
    assert steps.lane.acknowledged == 30
    assert list(tmp_path.iterdir()) == []


def test_what_was_acknowledged_is_not_sent_again_by_the_next_process(tmp_path: Path) -> None:
    fill(tmp_path, range(30), limits=BIG)
    ledger = FakeLedger()
    first = Steps(tmp_path, ledger, limits=LaneLimits(batch_records=10))
    first.lane.step()
    assert len(ledger.came) == 10
    first.lane.close()
    Steps(tmp_path, ledger).run(1.0)
    assert set(ledger.came.values()) == {1}
    assert ledger.numbers == list(range(30))


def test_a_process_killed_before_its_cursor_was_written_sends_again(tmp_path: Path) -> None:
    path = fill(tmp_path, range(30), limits=BIG)
    ledger = FakeLedger()
    reader = SpoolReader(claimed(path), log=Log())
    ledger.post(b'{"records":[' + b",".join(entry.payload for entry in reader.batch(10, 10**6)) + b"]}")
    reader.folder.close()  # killed with the answer on its way
    steps = Steps(tmp_path, ledger)
    steps.run(1.0)
    assert ledger.numbers == list(range(30))
    assert steps.lane.acknowledged == 30
    assert ledger.came.total() == 40
