"""The spool on a real disk: groups, rotation, repair, full and broken disks, two processes, deletion."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from msgspec.structs import replace
from tenantry_testing.spools import SMALL, Log, SickDisk, claimed, fill, left_in, number_of, payload, spooling, until
from tenantry_vllm.spool import Spool, SpoolError, SpoolLimits, limits_of
from tenantry_vllm.spool_folder import Disk, Folder, abandoned, bytes_below, claim, folder_name
from tenantry_vllm.spool_format import FRAME_BYTES, HEADER_BYTES, header
from tenantry_vllm.spool_health import DiskRule
from tenantry_vllm.spool_reader import SpoolReader

RECORD = len(payload(0)) + FRAME_BYTES


def reader_of(spool: Spool, log: Log | None = None) -> SpoolReader:
    assert spool.folder is not None
    return SpoolReader(
        spool.folder, log=log if log is not None else Log(), segments=spool.segments, released=spool.released
    )


def take(reader: SpoolReader, records: int = 1000) -> list[int]:
    batch = reader.batch(records, 10**9)
    reader.acknowledge(len(batch))
    return [number_of(entry.payload) for entry in batch]


def test_what_is_fsynced_survives_the_process(tmp_path: Path) -> None:
    fill(tmp_path, range(100))
    assert left_in(tmp_path / "e-1") == list(range(100))


def test_many_records_share_an_fsync(tmp_path: Path) -> None:
    disk, limits = SickDisk(), replace(SMALL, commit_s=0.05, segment_bytes=400_000, memory_bytes=200_000)
    with spooling(tmp_path, disk=disk, limits=limits) as spool:
        began_s = time.monotonic()
        while time.monotonic() < began_s + 0.5:
            spool.append(payload(spool.appended))
            time.sleep(0.001)
        assert spool.wait_fsynced(spool.appended - 1, 5.0)
        took_s = time.monotonic() - began_s
    assert disk.syncs <= took_s / limits.commit_s + 3, "at most one each 50 ms, and the header's"
    assert spool.appended > 5 * disk.syncs
    assert not spool.health.dropped.total()


def test_an_append_that_is_alone_is_fsynced_at_once(tmp_path: Path) -> None:
    with spooling(tmp_path, limits=replace(SMALL, commit_s=5.0)) as spool:
        assert spool.append(payload(1)) == 0
        assert spool.wait_fsynced(0, 1.0)
        assert spool.append(payload(2)) == 1
        assert not spool.wait_fsynced(1, 0.1), "the next group waits for its turn"
    assert left_in(tmp_path / "e-1") == [1, 2], "the end of the process waits for nobody"


def test_segments_rotate_and_go_when_all_of_them_is_acknowledged(tmp_path: Path) -> None:
    with spooling(tmp_path) as spool:
        reader = reader_of(spool)
        for number in range(100):
            place = spool.append(payload(number))
            assert place is not None
            assert spool.wait_fsynced(place, 5.0)
        sizes, live = spool.segments()
        assert len(sizes) > 4
        assert max(sizes.values()) < SMALL.segment_bytes + RECORD
        assert sum(sizes.values()) == 100 * RECORD + len(sizes) * HEADER_BYTES
        assert reader.waiting_bytes == 100 * RECORD

        assert take(reader, 50) == list(range(50))
        assert reader.waiting_bytes == 50 * RECORD
        reader.settle(now=True)
        kept, _ = spool.segments()
        assert 2 <= len(kept) < len(sizes), "those whose last record is acknowledged are gone"
        assert sorted(kept) == [number for number in sizes if (tmp_path / "e-1" / f"{number:08d}.spool").exists()]

        assert take(reader) == list(range(50, 100))
        assert reader.batch(10, 1000) == ()
        reader.settle(now=True)
        assert set(spool.segments()[0]) <= {live}
        assert reader.waiting_bytes == 0


def test_after_all_is_acknowledged_nothing_is_left_of_the_folder(tmp_path: Path) -> None:
    fill(tmp_path, range(20))
    reader = SpoolReader(claimed(tmp_path / "e-1"), log=Log())
    assert take(reader) == list(range(20))
    reader.settle(now=True)
    assert reader.finished
    reader.close()
    assert list(tmp_path.iterdir()) == []


def test_the_cursor_says_where_the_next_process_goes_on(tmp_path: Path) -> None:
    fill(tmp_path, range(50))
    reader = SpoolReader(claimed(tmp_path / "e-1"), log=Log())
    assert take(reader, 17) == list(range(17))
    reader.close()
    assert left_in(tmp_path / "e-1") == list(range(17, 50))
    (tmp_path / "e-1" / "acknowledged").write_text("{")
    assert 17 in left_in(tmp_path / "e-1"), "without a cursor all is sent again, which ids make harmless"


def test_the_same_folder_goes_on_where_it_was(tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    fill(tmp_path, range(10, 20))
    log = Log()
    assert left_in(tmp_path / "e-1", log) == list(range(20))
    assert log == []


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A folder in memory, where an fsync costs nothing."""
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


def test_torn_at_every_byte_of_the_last_record(quick_path: Path) -> None:
    limits = replace(SMALL, segment_bytes=400_000)
    whole = next(fill(quick_path / "whole", range(4), limits=limits).glob("*.spool")).read_bytes()
    for cut in range(RECORD):
        root = quick_path / str(cut)
        (root / "e-1").mkdir(parents=True)
        (root / "e-1" / "00000001.spool").write_bytes(whole[: len(whole) - RECORD + cut])
        log = Log()
        with spooling(root, log=log, limits=limits) as spool:
            assert spool.append(payload(77)) == 0
        assert spool.fsynced == 1
        assert len(log.having("were cut off")) == (1 if cut else 0)
        after = Log()
        assert left_in(root / "e-1", after) == [0, 1, 2, 77], cut
        assert after == [], "what a crash left was made good: nothing is torn or missing any more"


def test_torn_in_the_header(tmp_path: Path) -> None:
    whole = next(fill(tmp_path / "whole", range(3)).glob("*.spool")).read_bytes()
    for cut in range(HEADER_BYTES + 1):
        (tmp_path / str(cut) / "e-1").mkdir(parents=True)
        (tmp_path / str(cut) / "e-1" / "00000001.spool").write_bytes(whole)
        (tmp_path / str(cut) / "e-1" / "00000002.spool").write_bytes(header(3)[:cut])
        fill(tmp_path / str(cut), range(3, 5))
        assert left_in(tmp_path / str(cut) / "e-1") == [0, 1, 2, 3, 4]


def test_a_dead_process_s_torn_tail_is_read_past(tmp_path: Path) -> None:
    path = fill(tmp_path, range(3))
    (segment,) = path.glob("*.spool")
    os.truncate(segment, segment.stat().st_size - 1)
    log = Log()
    assert left_in(path, log) == [0, 1]
    assert len(log.having("broke off")) == 1


def test_a_flipped_bit_costs_one_record_is_reported_and_kept(tmp_path: Path) -> None:
    limits = replace(SMALL, segment_bytes=400_000)
    path = fill(tmp_path, range(5), limits=limits)
    (segment,) = path.glob("*.spool")
    data = bytearray(segment.read_bytes())
    data[HEADER_BYTES + RECORD + 40] ^= 4
    segment.write_bytes(data)
    log = Log()
    reader = SpoolReader(claimed(path), log=log)
    assert take(reader) == [0, 2, 3, 4]
    assert reader.damaged == 1
    assert len(log.having(f"has {RECORD} destroyed bytes, the first at {HEADER_BYTES + RECORD}")) == 1
    assert len(log.having("1 usage records are missing")) == 1
    assert reader.batch(1, 1000) == ()
    reader.settle(now=True)
    assert reader.finished
    reader.close()
    assert (tmp_path / "damaged" / "e-1-00000001.spool").read_bytes() == data
    assert not path.exists()


def test_the_last_record_destroyed_is_told_from_a_torn_one(tmp_path: Path) -> None:
    limits = replace(SMALL, segment_bytes=400_000)
    path = fill(tmp_path, range(5), limits=limits)
    (segment,) = path.glob("*.spool")
    data = bytearray(segment.read_bytes())
    data[-10] ^= 4
    segment.write_bytes(data)
    reader = SpoolReader(claimed(path), log=Log())
    assert len(reader.batch(10, 10_000)) == 4
    assert reader.damaged == 1
    reader.folder.close()

    fill(tmp_path, range(5, 7), limits=limits)  # the process comes back
    log = Log()
    reader = SpoolReader(claimed(path), log=log)
    assert take(reader) == [0, 1, 2, 3, 5, 6]
    assert reader.damaged == 1
    assert log.having("1 usage records are missing")
    reader.folder.close()


def test_a_destroyed_header_costs_no_record(tmp_path: Path) -> None:
    path = fill(tmp_path, range(3))
    (segment,) = path.glob("*.spool")
    segment.write_bytes(b"?" * HEADER_BYTES + segment.read_bytes()[HEADER_BYTES:])
    log = Log()
    assert left_in(path, log) == [0, 1, 2]
    assert log.having("is no segment")


def test_a_segment_that_is_gone_is_missed_by_number(tmp_path: Path) -> None:
    path = fill(tmp_path, range(100))
    _, second, *_ = sorted(path.glob("*.spool"))
    lost = (second.stat().st_size - HEADER_BYTES) // RECORD
    second.unlink()
    reader = SpoolReader(claimed(path), log=Log())
    assert len(take(reader)) == 100 - lost
    assert reader.damaged == lost
    reader.folder.close()


def test_a_segment_that_cannot_be_read_holds_up_nothing_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fill(tmp_path, range(100))
    bad = sorted(path.glob("*.spool"))[1]
    lost = (bad.stat().st_size - HEADER_BYTES) // RECORD
    real = os.open

    def no_sector(name: str | Path, flags: int, mode: int = 0o777) -> int:
        if Path(name) == bad:
            raise OSError(errno.EIO, "Input/output error")
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", no_sector)
    now_s, log = [0.0], Log()
    reader = SpoolReader(claimed(path), log=log, clock=lambda: now_s[0])
    got: list[int] = []
    for _ in range(10):
        with suppress(OSError):
            got += take(reader)
        now_s[0] += 1.0
    assert len(got) == 100 - lost
    assert reader.damaged == lost
    assert len(log.having("cannot be read")) == 1
    reader.close()
    monkeypatch.undo()
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_refuse_new_work_while_the_disk_is_full_and_lose_nothing(tmp_path: Path) -> None:
    disk, log = SickDisk(), Log()
    with spooling(tmp_path, disk=disk, log=log) as spool:
        disk.room = 3 * RECORD + 100
        for number in range(10):
            assert spool.append(payload(number)) == number
            time.sleep(0.01)
        until(lambda: spool.health.state == "full")
        assert not spool.health.accepting
        assert "No space left" in spool.health.trouble
        assert 0 < spool.fsynced < 10
        disk.room = None
        until(lambda: spool.fsynced == 10)
        until(lambda: spool.health.accepting)
    assert [len(log.having(text)) for text in ("is full", "New work is refused", "works again; 0 ")] == [1, 1, 1]
    assert left_in(tmp_path / "e-1") == list(range(10)), "each once, though a write had broken off half-way"


def test_count_what_is_lost_while_the_disk_is_full(tmp_path: Path) -> None:
    disk, log = SickDisk(), Log()
    with spooling(tmp_path, disk=disk, log=log, rule="count") as spool:
        disk.room = 0
        taken = [number for number in range(200) if spool.append(payload(number)) is not None]
        until(lambda: spool.health.state == "full")
        taken += [number for number in range(200, 300) if spool.append(payload(number)) is not None]
        assert spool.health.accepting, "serving goes on"
        time.sleep(0.1)
        assert not list(spool.path.glob("*.spool")), "tries leave nothing behind"
        lost = 300 - len(taken)
        assert len(taken) == SMALL.memory_bytes // len(payload(0))
        assert sum(spool.health.dropped.values()) == lost
        assert spool.health.dropped["disk_full"] >= 100
        until(lambda: log.having("usage records have been lost"))
        disk.room = None
        until(lambda: spool.fsynced == len(taken))
        until(lambda: log.having(f"works again; {lost} usage records were lost"))
        assert spool.append(payload(1000)) is not None
    assert left_in(tmp_path / "e-1") == [*taken, 1000]


def test_after_a_failed_fsync_the_records_are_written_anew(tmp_path: Path) -> None:
    disk, log = SickDisk(), Log()
    with spooling(tmp_path, disk=disk, log=log) as spool:
        assert spool.append(payload(0)) == 0
        assert spool.wait_fsynced(0, 5.0)
        disk.sync_error = errno.EIO
        for number in range(1, 5):
            spool.append(payload(number))
        until(lambda: spool.health.state == "error")
        time.sleep(0.1)
        assert (spool.fsynced, spool.health.accepting) == (1, False)
        assert len(list((tmp_path / "e-1").glob("*.spool"))) <= 2, "tries leave nothing behind"
        disk.sync_error = None
        until(lambda: spool.fsynced == 5)
        assert spool.health.accepting
    assert log.having("fails: Input/output error")
    data = b"".join(path.read_bytes() for path in (tmp_path / "e-1").glob("*.spool"))
    assert data.count(payload(1)) == 1, "what the disk had of the failed group was cut off"
    assert left_in(tmp_path / "e-1") == list(range(5))


def test_names_of_new_files_are_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose folder was not synced may be gone after a power cut, however well its bytes are."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with spooling(tmp_path) as spool:
        assert str(tmp_path) in synced
        spool.append(payload(1))
        assert spool.wait_fsynced(0, 5.0)
        assert str(spool.path) in synced
        synced.clear()
        reader = reader_of(spool)
        take(reader)
        reader.settle(now=True)
    assert synced == [str(spool.path / "acknowledged.new"), str(spool.path)]


def test_a_disk_that_cannot_even_cut_leaves_no_record_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SickDisk()
    with spooling(tmp_path, disk=disk) as spool:
        spool.append(payload(0))
        assert spool.wait_fsynced(0, 5.0)

        def read_only(*_: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(os, "ftruncate", read_only)
        disk.sync_error = errno.EIO
        spool.append(payload(1))
        until(lambda: spool.health.state == "error")
        monkeypatch.undo()
        disk.sync_error = None
        spool.append(payload(2))
        until(lambda: spool.fsynced == 3)
    data = b"".join(path.read_bytes() for path in (tmp_path / "e-1").glob("*.spool"))
    assert data.count(payload(1)) == 2, "it is there twice"
    assert left_in(tmp_path / "e-1") == [0, 1, 2], "and read once"


def test_a_disk_that_hangs_is_noticed(tmp_path: Path) -> None:
    disk, log = SickDisk(), Log()
    with spooling(tmp_path, disk=disk, log=log) as spool:
        disk.hangs.clear()
        spool.append(payload(0))
        until(lambda: spool.health.state == "error")
        assert not spool.health.accepting
        spool.health.tell_stalled()
        spool.health.tell_stalled()
        assert len(log.having("has not finished a write for 0.3 s")) == 1
        disk.hangs.set()
        until(lambda: spool.health.accepting)
    assert left_in(tmp_path / "e-1") == [0]


@pytest.mark.parametrize("hanging", ["ftruncate", "close"])
def test_a_disk_that_hangs_while_a_segment_is_given_up_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging: str
) -> None:
    disk, go, asked, real = SickDisk(), threading.Event(), threading.Event(), getattr(os, hanging)

    def hang(descriptor: int, *rest: int) -> None:
        if threading.current_thread().name == "usage-spool":
            asked.set()
            go.wait(10)
        real(descriptor, *rest)

    with spooling(tmp_path, disk=disk) as one:
        one.append(payload(0))
        until(lambda: one.fsynced == 1)
        disk.sync_error = errno.EIO
        monkeypatch.setattr(os, hanging, hang)
        one.append(payload(1))
        assert asked.wait(5)
        taken = threading.Thread(target=one.append, args=(payload(2),))
        taken.start()
        taken.join(2)
        is_stuck = taken.is_alive()
        disk.sync_error = None
        go.set()
        assert not is_stuck
        until(lambda: one.fsynced == 3)


def test_the_bound_counts_what_others_left_below_the_root(tmp_path: Path) -> None:
    limits = replace(SMALL, spool_bytes=40_000)
    fill(tmp_path, range(30), engine="dead", limits=limits)
    used = bytes_below(tmp_path, but=tmp_path / "none")
    with spooling(tmp_path, limits=limits) as spool:
        for number in range(100):
            spool.append(payload(number))
            time.sleep(0.001)
        until(lambda: spool.health.state == "full")
        assert not spool.health.accepting
        assert "as many as it may" in spool.health.trouble
        until(lambda: spool.fsynced >= (40_000 - used) // RECORD - 5)
        assert bytes_below(tmp_path, but=tmp_path / "none") <= limits.spool_bytes
        reader = reader_of(spool)
        got = take(reader)
        assert len(got) == spool.fsynced
        while spool.fsynced < spool.appended or len(got) < spool.fsynced:  # it goes on as there is room
            got += take(reader)
            reader.settle(now=True)
            time.sleep(0.01)
        assert len(got) == spool.appended


def test_low_room_refuses_while_all_is_still_written(tmp_path: Path) -> None:
    class Shrinking(Disk):
        free = 10**9

        def free_bytes(self, path: Path) -> int:
            assert path == tmp_path
            return self.free

    disk, log = Shrinking(), Log()
    with spooling(tmp_path, disk=disk, log=log) as spool:
        assert spool.health.accepting
        disk.free = SMALL.reserve_bytes - 1
        until(lambda: not spool.health.accepting)
        assert spool.health.state == "low"
        spool.append(payload(1))
        until(lambda: spool.fsynced == 1)
        disk.free = SMALL.reserve_bytes + 1
        time.sleep(0.1)
        assert spool.health.state == "low", "just enough is not enough to come back"
        disk.free = 2 * SMALL.reserve_bytes
        until(lambda: spool.health.accepting)
    assert len(log) == 2


def test_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    with spooling(tmp_path) as spool:
        spool.append(payload(1))
        with pytest.raises(SpoolError, match=r"another process has .*e-1: give each engine process a name of its own"):
            Spool(tmp_path, "e-1", log=Log()).start()
        script = (
            "import sys; from pathlib import Path; from tenantry_vllm.spool_folder import abandoned, claim\n"
            "root = Path(sys.argv[1]); print(claim(root / 'e-1'), [f.name for f in abandoned(root)])"
        )
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True)
        assert done.stdout.strip() == "None []"
    assert [folder.name for folder in abandoned(tmp_path)] == ["e-1"]


def test_a_lock_that_was_removed_meanwhile_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process opens the lock's file; another, which had it, removes the folder; the first must begin anew."""
    first = claimed(tmp_path / "e-1")
    real = os.open
    calls: list[object] = []

    def slow(name: str | Path, flags: int, mode: int = 0o777) -> int:
        descriptor = real(name, flags, mode)
        if Path(name).name == "lock" and not calls:
            calls.append(name)
            first.remove()
        return descriptor

    monkeypatch.setattr(os, "open", slow)
    second = claim(tmp_path / "e-1")
    monkeypatch.undo()
    assert second is not None
    assert (tmp_path / "e-1" / "lock").exists()
    assert claim(tmp_path / "e-1") is None
    second.close()


def test_only_folders_of_spools_are_touched(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "refused").mkdir()
    (tmp_path / "refused" / "lock").touch()
    (tmp_path / "notes.txt").touch()
    assert list(abandoned(tmp_path)) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["lock", "lost+found", "notes.txt", "refused"]


@pytest.mark.parametrize(
    "engine", ["meta/llama", "../x", ".hidden", "", "refused", "ü", "a" * 200, "vllm-chat-1.4.0-ab"]
)
def test_an_engine_s_folder_has_a_name_that_a_file_may_have(engine: str, tmp_path: Path) -> None:
    name = folder_name(engine)
    (tmp_path / name).mkdir()
    assert (tmp_path / name).parent == tmp_path
    assert not name.startswith(".")
    assert len(name) < 120
    assert (name == engine) == (engine == "vllm-chat-1.4.0-ab")
    assert folder_name(engine + "2") != name


def test_a_folder_that_cannot_be_used_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="cannot hold usage records: Not a directory"):
        Spool(tmp_path / "file", "e-1", log=Log()).start()


def test_a_disk_that_is_full_at_the_start_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> Folder:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = Log()
    monkeypatch.setattr("tenantry_vllm.spool.claim", full)
    spool = Spool(tmp_path, "e-1", log=log, limits=SMALL)
    spool.start()
    assert not spool.health.accepting
    assert spool.append(payload(3)) == 0
    assert not spool.wait_fsynced(0, 0.05)
    monkeypatch.undo()
    assert spool.wait_fsynced(0, 5.0)
    until(lambda: spool.health.accepting)
    spool.stop()
    assert spool.folder is not None
    spool.folder.close()
    assert left_in(tmp_path / "e-1") == [3]


def test_what_cannot_be_written_in_the_end_is_counted_and_said(tmp_path: Path) -> None:
    disk, log = SickDisk(), Log()
    with spooling(tmp_path, disk=disk, log=log) as spool:
        disk.room = 0
        spool.append(payload(1))
        until(lambda: spool.health.state == "full")
    assert spool.health.dropped["stopped"] == 1
    assert log.having("1 usage records were lost: the engine stopped")
    assert spool.append(payload(2)) is None
    assert spool.health.dropped["stopped"] == 2


@pytest.mark.parametrize("size", [0, 65_537])
def test_what_is_no_record_is_dropped_by_size(tmp_path: Path, size: int) -> None:
    with spooling(tmp_path) as spool:
        assert spool.append(b"x" * size) is None
        assert spool.health.dropped["too_large"] == 1


def test_a_small_spool_has_small_segments() -> None:
    assert limits_of(4 * 1024**3) == SpoolLimits()
    small = limits_of(1024**2)
    assert (small.segment_bytes, small.reserve_bytes) == (64 * 1024, 128 * 1024)
    with pytest.raises(ValueError, match="spool_bytes is 10, must be 1048576 at least"):
        limits_of(10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, which really is full when it is full."""
    if os.geteuid() != 0:
        pytest.skip("a file system of 256 KiB takes root; full disks are injected instead")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], check=True, capture_output=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("rule", ["refuse", "count"])
def test_a_disk_that_really_is_full(small_disk: Path, rule: DiskRule) -> None:
    ballast, log, limits = small_disk / "ballast", Log(), replace(SMALL, reserve_bytes=20_000, memory_bytes=10**6)
    ballast.write_bytes(bytes(120_000))
    with spooling(small_disk, log=log, rule=rule, limits=limits) as spool:
        assert spool.health.accepting
        sent, refused_at = 0, None
        while spool.health.state != "full":
            if not spool.health.accepting and refused_at is None:
                refused_at = spool.fsynced
            spool.append(payload(sent))
            sent += 1
            time.sleep(0.001)
        if rule == "refuse":
            assert refused_at is not None
            assert refused_at < spool.fsynced, "what ran already was still written, to the reserve"
        assert spool.health.accepting == (rule == "count")
        before = spool.fsynced
        time.sleep(0.1)
        assert spool.fsynced - before < 8, "full is full"
        ballast.unlink()
        until(lambda: spool.fsynced == spool.appended)
        until(lambda: spool.health.accepting)
        assert spool.append(payload(9999)) is not None
    assert not spool.health.dropped.total()
    assert left_in(small_disk / "e-1") == [*range(sent), 9999]
    assert log.having("is full: No space left on device")
    assert log.having("works again; 0 usage records were lost")
