"""Delivery by both ways, with real sockets and a real disk: what goes where, what is said, what it costs."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tenantry.adapters.ports import free_port
from tenantry.core.usage import ColdStart
from tenantry_testing.ledger_stub import StubLedger
from tenantry_testing.sidecars import TOKEN, StubSidecar
from tenantry_testing.spools import Log, fill, left_in, record, until
from tenantry_vllm.delivery import Delivery, DeliveryOptions
from tenantry_vllm.spool import SpoolError


@pytest.fixture
def ledger() -> Iterator[StubLedger]:
    with running_ledger(free_port()) as started:
        yield started


@contextmanager
def running_ledger(port: int) -> Iterator[StubLedger]:
    started = StubLedger(port, seed=1)
    try:
        yield started
    finally:
        started.shutdown()
        started.server_close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


def options(tmp_path: Path, port: int, *sidecars: str) -> DeliveryOptions:
    return DeliveryOptions(
        engine="e-1", sidecar_urls=sidecars, ledger_url=f"http://127.0.0.1:{port}", spool_dir=tmp_path / "spool",
        token_file=tmp_path / "token",
    )  # fmt: skip


@pytest.mark.usefixtures("token")
async def test_a_record_goes_to_the_sidecars_at_once_and_to_the_ledger_through_the_disk(
    tmp_path: Path, ledger: StubLedger
) -> None:
    fill(tmp_path / "spool", range(1000, 1010), engine="dead")
    sidecar, log = StubSidecar(), Log()
    await sidecar.start()
    delivery = Delivery(options(tmp_path, ledger.server_address[1], sidecar.url), log=log)
    delivery.start()
    for number in range(100):
        delivery.deliver(record(number, ended_s=time.time()))
    await sidecar.until(100)
    assert max(sidecar.delays_s) < 2.0
    until(lambda: len(ledger.booked) == 110)
    until(lambda: delivery.status().acknowledged == 110)
    status = delivery.status()
    assert (status.accepting, status.disk, status.trouble) == (True, "ok", "")
    assert (status.appended, status.fsynced, status.refused, status.damaged) == (100, 100, 0, 0)
    assert status.waiting_bytes == 0
    assert set(status.dropped.values()) == {0}
    assert status.sidecars["shipped"] == 100
    delivery.stop()
    await sidecar.stop()
    assert list((tmp_path / "spool").iterdir()) == [], "nothing is left of what was delivered"
    assert len(log) == 1
    assert "its last" in log[0]


@pytest.mark.usefixtures("token")
def test_without_a_ledger_all_waits_on_disk_for_the_next_process(tmp_path: Path) -> None:
    port, log = free_port(), Log()
    delivery = Delivery(options(tmp_path, port), log=log)
    delivery.start()
    for number in range(50):
        delivery.deliver(record(number))
    until(lambda: "was not reached" in delivery.status().trouble)
    assert delivery.accepting, "a ledger that is down stops nobody"
    assert delivery.status().waiting_bytes > 30_000
    began_s = time.monotonic()
    delivery.deliver(record(50))
    delivery.stop(2.0)
    assert time.monotonic() < began_s + 2.5
    assert left_in(tmp_path / "spool" / "e-1") == list(range(51)), "with the very last one"
    with running_ledger(port) as ledger:
        successor = Delivery(replace(options(tmp_path, port), engine="e-2"), log=Log())
        successor.start()
        until(lambda: len(ledger.booked) == 51)
        successor.stop()
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.usefixtures("token")
def test_a_ledger_that_hangs_holds_up_neither_deliver_nor_the_end(tmp_path: Path) -> None:
    class Hanging(StubLedger):
        came_in = threading.Event()
        answered = threading.Event()

        def process_request_thread(self, *connection: Any) -> None:
            self.came_in.set()
            self.answered.wait(10.0)
            self.shutdown_request(connection[0])

    ledger = Hanging(free_port(), seed=1)
    delivery = Delivery(options(tmp_path, ledger.server_address[1]), log=Log())
    delivery.start()
    delivery.deliver(record(1))
    assert ledger.came_in.wait(5.0)
    began_s = time.monotonic()
    delivery.deliver(record(2))
    delivery.stop(0.3)
    assert time.monotonic() < began_s + 1.0
    ledger.answered.set()
    ledger.shutdown()
    ledger.server_close()
    until(lambda: not [one for one in threading.enumerate() if one.name == "usage-to-ledger"])
    assert left_in(tmp_path / "spool" / "e-1") == [1, 2]


@pytest.mark.usefixtures("token")
def test_what_is_no_valid_record_is_kept_for_a_person_not_lost(tmp_path: Path) -> None:
    """A Struct checks nothing when it is built: a bug in an engine makes records that nobody takes."""
    log = Log()
    delivery = Delivery(options(tmp_path, free_port()), log=log)
    delivery.start()
    delivery.deliver(record(1, attempt=0))
    delivery.deliver(record(2, tenant=object()))
    until(lambda: delivery.status().fsynced == 1)
    assert delivery.status().sidecars["invalid"] == 2
    assert len(log.having("no sidecar would take it")) == 1
    delivery.stop(0.5)
    assert left_in(tmp_path / "spool" / "e-1") == [1], "one that has no JSON at all can only be counted"


@pytest.mark.usefixtures("token")
def test_every_kind_of_record_is_delivered(tmp_path: Path) -> None:
    delivery = Delivery(options(tmp_path, free_port()), log=Log())
    delivery.start()
    delivery.deliver(ColdStart(engine="e-1", model="m", version="1", ended_s=1.0, load_ns=5))
    until(lambda: delivery.status().fsynced == 1)
    delivery.stop(0.2)
    (segment,) = (tmp_path / "spool" / "e-1").glob("*.spool")
    assert b'"kind":"cold_start"' in segment.read_bytes()


@pytest.mark.usefixtures("token")
def test_deliver_costs_some_microseconds(tmp_path: Path) -> None:
    delivery = Delivery(options(tmp_path, free_port(), "http://127.0.0.1:9"), log=Log())
    delivery.start()
    one, took_ns = record(1), []
    for _ in range(2_000):
        began_ns = time.perf_counter_ns()
        delivery.deliver(one)
        took_ns.append(time.perf_counter_ns() - began_ns)
    delivery.stop(0.5)
    assert median(took_ns) < 100_000, "20 us are usual; the bound is for a busy machine"


@pytest.mark.usefixtures("token")
def test_two_engines_of_one_name_are_an_error_at_the_start(tmp_path: Path) -> None:
    first = Delivery(options(tmp_path, free_port()), log=Log())
    first.start()
    with pytest.raises(SpoolError, match="another process has"):
        Delivery(options(tmp_path, free_port()), log=Log()).start()
    first.stop(0.2)
    first.stop(0.2)


def test_options_that_can_never_work_are_refused_before_anything_starts(tmp_path: Path, token: Path) -> None:
    good = options(tmp_path, 9)
    for bad, says in [
        (replace(good, ledger_url=""), "go together"),
        (replace(good, spool_dir=None), "go together"),
        (replace(good, ledger_url="", spool_dir=None), "records go nowhere"),
        (replace(good, token_file=None), "give token_file"),
        (replace(good, ledger_url="http://ledger:9400"), "the ledger's URL beyond this machine is https"),
        (replace(good, ledger_url="https://ledger:9400"), "needs files: a CA"),
        (replace(good, ledger_url="ftp://ledger"), "the ledger's URL looks like https"),
        (replace(good, spool_bytes=10), "spool_bytes is 10, must be"),
    ]:
        with pytest.raises(ValueError, match=says):
            Delivery(bad, log=Log())
    token.write_text("")
    with pytest.raises(ValueError, match="must hold one token"):
        Delivery(good, log=Log())
    with pytest.raises(OSError, match="No such file"):
        Delivery(replace(good, token_file=tmp_path / "none"), log=Log())
    assert not (tmp_path / "spool").exists()


async def test_without_a_spool_sidecars_alone_get_records(tmp_path: Path, token: Path) -> None:
    sidecar = StubSidecar()
    await sidecar.start()
    delivery = Delivery(
        DeliveryOptions(engine="e-1", sidecar_urls=(sidecar.url,), token_file=token), log=Log()
    )  # fmt: skip
    delivery.start()
    delivery.deliver(record(1))
    await sidecar.until(1)
    assert (delivery.accepting, delivery.status().disk) == (True, "none")
    assert msgspec.json.encode(delivery.status()).startswith(b'{"accepting":true')
    delivery.stop()
    await sidecar.stop()
    assert not (tmp_path / "spool").exists()
