"""What survives `kill -9`: of the process that writes, of the one that ships, of the ledger, at any byte and moment."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from tenantry.adapters.ports import free_port
from tenantry_testing.ledger_stub import StubLedger
from tenantry_testing.spools import SMALL, Log, claimed, left_in, number_of, payload, spooling, until
from tenantry_vllm.spool_folder import abandoned
from tenantry_vllm.spool_format import frame, header
from tenantry_vllm.spool_reader import SpoolReader

DEEP = os.environ.get("DEEP") == "1"
ROUNDS = 60 if DEEP else 5
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tenantry_testing.spool_processes", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def killed_after(started: subprocess.Popen[str], seconds: float) -> list[int]:
    """Let a process work for so long after its first line, kill it, and return the numbers that it had printed."""
    assert started.stdout is not None
    lines = [started.stdout.readline()]
    time.sleep(seconds)
    started.send_signal(signal.SIGKILL)
    lines += started.stdout.readlines()
    assert started.wait() == -signal.SIGKILL
    return [int(line) for line in lines if line.endswith("\n")]


def test_what_was_acknowledged_survives_kill_9_of_the_writer_under_load(tmp_path: Path) -> None:
    rng, acknowledged, first = random.Random(5), [], 0
    for number in range(ROUNDS):
        engine = f"e-{number // 2}"  # each folder is written by two processes, one after the other
        with process(str(tmp_path), engine, str(first)) as started:
            acknowledged += killed_after(started, rng.uniform(0.02, 0.3))
        first = max(acknowledged) + 10_000
    assert len(acknowledged) > 50 * ROUNDS
    log, found = Log(), Counter[int]()
    for folder in abandoned(tmp_path):
        reader = SpoolReader(folder, log=log)
        found.update(number_of(entry.payload) for entry in reader.batch(10**9, 10**12))
        folder.close()
    assert set(acknowledged) <= set(found)
    assert set(found.values()) == {1}
    assert len(found) <= len(acknowledged) + 60 * ROUNDS, "and little more than that: what was about to be printed"
    assert not log.having("missing")
    assert not log.having("destroyed")


def test_no_record_is_lost_or_counted_twice_by_kill_9_in_the_middle_of_posts(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("right-token")
    root = tmp_path / "spool"
    port = free_port()
    ledger = StubLedger(port, seed=6)
    ledger.kind = False
    rng, acknowledged, first = random.Random(7), [], 0
    for number in range(ROUNDS):
        arguments = (str(root), f"e-{number}", str(first), f"http://127.0.0.1:{port}", str(token))
        with process(*arguments) as started:
            acknowledged += killed_after(started, rng.uniform(0.5, 1.2))
        first = max(acknowledged) + 10_000
        if number % 2:  # the ledger dies as well, and comes back with what its database has
            ledger.shutdown()
            ledger.server_close()
            before, ledger = ledger, StubLedger(port, seed=number)
            ledger.booked, ledger.came, ledger.kind = before.booked, before.came, False
    ledger.kind = True
    with process(str(root), "last", "-", f"http://127.0.0.1:{port}", str(token)) as started:
        assert started.wait(60) == 0
    ledger.shutdown()
    ledger.server_close()
    booked = {int(one.split("/")[0], 16) for one in ledger.booked}
    assert len(booked) == len(ledger.booked)
    assert set(acknowledged) <= booked, "all that a process had acknowledged is in the ledger"
    assert set(ledger.booked.values()) == {1}
    assert ledger.came > len(ledger.booked), "some came twice, else nothing was tried"
    assert len(ledger.booked) <= len(acknowledged) + 200 * ROUNDS
    assert list(root.iterdir()) == [], "all folders are shipped and gone"


step = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 30)),
    st.tuples(st.just("crash"), st.integers(0, 800)),
    st.tuples(st.just("acknowledge"), st.integers(0, 40)),
    st.tuples(st.just("zeros"), st.integers(0, 800)),
)


@settings(max_examples=500 if DEEP else 30)
@given(steps=st.lists(step, max_size=12))
def test_any_story_of_crashes_and_acknowledgements_keeps_what_is_due(steps: list[tuple[str, int]]) -> None:
    """After each crash a write may have got as far as any byte of the next record; nothing acknowledged is touched."""
    with TemporaryDirectory(dir=MEMORY) as folder:
        root, path = Path(folder), Path(folder) / "e-1"
        due: list[int] = []
        sent, torn = 0, False
        for what, count in steps:
            if what == "append":
                torn = False  # who writes makes good first
                with spooling(root) as spool:
                    for number in range(sent, sent + count):
                        assert spool.append(payload(number)) is not None
                    until(lambda: spool.fsynced == spool.appended)
                due += range(sent, sent + count)
                sent += count
            elif what == "acknowledge":
                reader = SpoolReader(claimed(path), log=Log())
                batch = reader.batch(count, 10**9)
                assert [number_of(entry.payload) for entry in batch] == due[:count]
                reader.acknowledge(len(batch))
                del due[:count]
                reader.close()
            elif not torn:
                torn, segments = True, sorted(path.glob("*.spool"))
                whole = frame(10**6, payload(10**6)) if segments else header(sent)
                path.mkdir(exist_ok=True)
                with (segments[-1] if segments else path / "00000001.spool").open("ab") as segment:
                    segment.write(whole[: min(count, len(whole) - 1)] if what == "crash" else bytes(count))
        log = Log()
        assert left_in(path, log) == due
        assert not log.having("destroyed")
        assert not log.having("missing")


def test_a_flipped_bit_anywhere_in_a_folder_costs_one_record_at_most(tmp_path: Path) -> None:
    with TemporaryDirectory(dir=MEMORY) as folder, suppress(FileNotFoundError):
        root = Path(folder)
        with spooling(root, limits=SMALL) as spool:
            for number in range(12):
                assert spool.append(payload(number)) is not None
                assert spool.wait_fsynced(number, 5.0)
        rng = random.Random(8)
        segments = sorted((root / "e-1").glob("*.spool"))
        assert len(segments) > 1
        for segment in segments:
            whole = segment.read_bytes()
            for at in range(0, len(whole), 1 if DEEP else 17):
                data = bytearray(whole)
                data[at] ^= 1 << rng.randrange(8)
                segment.write_bytes(data)
                log = Log()
                left = left_in(root / "e-1", log)
                assert len(left) >= 11
                assert left == [number for number in range(12) if number in left]
                assert log, "and it is said"
            segment.write_bytes(whole)
        assert left_in(root / "e-1") == list(range(12))
