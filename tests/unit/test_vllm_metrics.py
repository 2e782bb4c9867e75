"""What an engine's /metrics says of metering: told by EngineCore on a board of files, shown by the API server."""

import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from prometheus_client.parser import text_string_to_metric_families
from tenantry.adapters.ports import free_port
from tenantry_testing.ledger_stub import StubLedger
from tenantry_testing.sidecars import TOKEN
from tenantry_testing.spools import Log, fill, record, until
from tenantry_vllm import metrics
from tenantry_vllm.board import MAX_FILE_BYTES, VARIABLE, Board, EngineStatus, Teller
from tenantry_vllm.delivery import Delivery, DeliveryOptions, DeliveryStatus
from tenantry_vllm.metrics import EngineCollector

ENGINE = EngineStatus(
    model="chat-8b",
    version="1.4.0",
    engine="host-7-1",
    faults={"planned": 2},
    delivery=DeliveryStatus(
        disk="low",
        refused=3,
        dropped={"disk_full": 4},
        waiting_records=5,
        waiting_bytes=600,
        limit_bytes=1000,
        oldest_ended_s=90.0,
    ),
)
OWN = {"model": "chat-8b", "version": "1.4.0", "engine": "host-7-1"}


def page(*engines: EngineStatus, now_s: float = 100.0) -> dict[str, float]:
    """The page by series, each without the engine's own labels."""
    registry = CollectorRegistry()
    registry.register(EngineCollector(lambda: engines, wall_clock=lambda: now_s))
    return read(generate_latest(registry).decode())


def read(text: str) -> dict[str, float]:
    shown = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert OWN.items() <= sample.labels.items()
            rest = "".join(f"{{{value}}}" for name, value in sample.labels.items() if name not in OWN)
            shown[f"{sample.name}{rest}"] = sample.value
    return shown


def test_a_page_has_each_figure_once_with_those_that_are_0() -> None:
    assert page(ENGINE) == {
        "tenantry_spool_waiting_records": 5,
        "tenantry_spool_waiting_bytes": 600,
        "tenantry_spool_limit_bytes": 1000,
        "tenantry_spool_oldest_waiting_seconds": 10,
        "tenantry_spool_dropped_records_total{disk_full}": 4,
        "tenantry_spool_dropped_records_total{disk_error}": 0,
        "tenantry_spool_dropped_records_total{memory_full}": 0,
        "tenantry_spool_dropped_records_total{too_large}": 0,
        "tenantry_spool_dropped_records_total{stopped}": 0,
        "tenantry_spool_refused_records_total": 3,
        "tenantry_spool_disk_state{ok}": 0,
        "tenantry_spool_disk_state{low}": 1,
        "tenantry_spool_disk_state{full}": 0,
        "tenantry_spool_disk_state{error}": 0,
        "tenantry_metering_faults_total{planned}": 2,
    }


def test_an_age_grows_while_nobody_writes_and_is_0_when_nothing_waits() -> None:
    assert page(ENGINE, now_s=1000.0)["tenantry_spool_oldest_waiting_seconds"] == 910
    nothing = EngineStatus(model="chat-8b", version="1.4.0", engine="host-7-1", delivery=DeliveryStatus(disk="ok"))
    assert page(nothing)["tenantry_spool_oldest_waiting_seconds"] == 0


def test_without_a_spool_there_are_only_faults() -> None:
    for delivery in (None, DeliveryStatus()):
        engine = EngineStatus(
            model="chat-8b", version="1.4.0", engine="host-7-1", faults={"send_input": 0}, delivery=delivery
        )
        assert page(engine) == {"tenantry_metering_faults_total{send_input}": 0}


def test_the_board_is_found_by_children_and_shows_each_process_once(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    parent = Board.shared(environment)
    child = Board.shared(environment)
    assert parent is not None
    assert child is not None
    folder = Path(environment[VARIABLE])
    try:
        for board, engine in ((parent, "api"), (child, "core/0"), (child, "core/0")):
            Teller(board, lambda name=engine: EngineStatus(model="m", version="1", engine=name)).tell()  # type: ignore[misc]
        assert sorted(status.engine for status in parent.read()) == ["api", "core/0"]
        Teller(child, lambda: EngineStatus(model="m", version="1", engine="core/0")).end()
        assert [status.engine for status in parent.read()] == ["api"]
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def test_a_status_is_written_once_a_second_and_only_when_it_changed(tmp_path: Path) -> None:
    written: list[str] = []

    class Noting(Board):
        def write(self, engine: str, data: bytes) -> None:
            written.append(engine)
            super().write(engine, data)

    now_s, faults = [0.0], [0]
    teller = Teller(
        Noting(tmp_path),
        lambda: EngineStatus(model="m", version="1", engine="e", faults={"tick": faults[0]}),
        clock=lambda: now_s[0],
    )
    for tenth in range(50):  # 5 s
        now_s[0] = tenth / 10
        teller.tell()
    assert len(written) == 1
    faults[0] = 1
    teller.tell()
    assert len(written) == 1, "the second was not over"
    now_s[0] = 6.0
    teller.tell()
    assert len(written) == 2
    assert Board(tmp_path).read()[0].faults == {"tick": 1}


def test_what_cannot_be_read_is_passed_over_and_what_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board(tmp_path)
    Teller(board, lambda: ENGINE).tell()
    (tmp_path / "torn.json").write_text('{"model": ')
    (tmp_path / "large.json").write_text(" " * (MAX_FILE_BYTES + 1))
    (tmp_path / "folder.json").mkdir()
    assert board.read() == [ENGINE]
    assert Board(tmp_path / "gone").read() == []
    now_s = [0.0]
    lost = Teller(Board(tmp_path / "gone"), lambda: ENGINE, clock=lambda: now_s[0])
    for now_s[0] in (0.0, 2.0, 4.0):
        lost.tell()
    assert len(caplog.records) == 1
    assert "serving and billing go on" in caplog.text
    (tmp_path / "gone").mkdir()
    now_s[0] = 6.0
    lost.tell()
    assert Board(tmp_path / "gone").read() == [ENGINE], "tried again"
    Teller(None, lambda: ENGINE).tell()


def test_vllms_registry_gets_the_collector_whichever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One registry for the process, or with several API servers another for each application."""
    registries = [CollectorRegistry(), CollectorRegistry()]
    source, user = ModuleType(metrics._SOURCE), ModuleType(metrics._USER)
    for module in (source, user):
        module.get_prometheus_registry = lambda: registries[0]  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    board, told = Board(tmp_path), []
    Teller(board, lambda: ENGINE).tell()
    for _ in range(2):
        metrics.install(board, lambda: told.append(1))
    for module in (source, user):  # the second application of this process finds it there
        assert module.get_prometheus_registry() is registries[0]
    assert told == [], "nothing is read before a scrape"
    first = read(generate_latest(registries[0]).decode())
    assert first["tenantry_spool_waiting_records"] == 5
    assert told == [1]
    registries.reverse()
    user.get_prometheus_registry()
    assert read(generate_latest(registries[0]).decode()).keys() == first.keys()


def test_beside_the_sum_of_several_api_servers_there_is_one_of_each_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What vLLM serves with --api-server-count: a registry that adds up files of all its processes."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(EngineCollector(lambda: [ENGINE]))
    assert read(generate_latest(registry).decode())["tenantry_spool_waiting_records"] == 5


def test_a_registry_that_fails_costs_the_figures_and_not_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = ModuleType(metrics._SOURCE)
    source.get_prometheus_registry = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, source.__name__, source)
    metrics.install(Board(tmp_path), lambda: None)
    assert type(source.get_prometheus_registry()) is object
    assert "will not have tenantry's figures" in caplog.text


def test_delivery_tells_what_waits_and_how_old_it_is(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    port, spool = free_port(), tmp_path / "spool"
    fill(spool, range(1000, 1010), engine="dead")  # at second 1
    options = DeliveryOptions(
        engine="e-1", ledger_url=f"http://127.0.0.1:{port}", spool_dir=spool, token_file=tmp_path / "token",
        spool_bytes=2**20,
    )  # fmt: skip
    delivery = Delivery(options, log=Log())
    assert delivery.status().oldest_ended_s is None
    delivery.start()
    begun_s = time.time()
    for number in range(7):
        delivery.deliver(record(number, ended_s=begun_s + number))
    until(lambda: "was not reached" in delivery.status().trouble)
    until(lambda: delivery.status().fsynced == 7)
    status = delivery.status()
    assert (status.waiting_records, status.limit_bytes) == (7, 2**20)
    assert status.oldest_ended_s == 1.0, "that of the dead engine"
    ledger = StubLedger(port, seed=1)
    until(lambda: len(ledger.booked) == 17, 10.0)
    until(lambda: delivery.status().oldest_ended_s is None)
    until(lambda: delivery.status().waiting_bytes == 0)
    assert delivery.status().waiting_records == 0
    delivery.stop()
    ledger.shutdown()
    ledger.server_close()


def test_what_is_in_memory_alone_is_the_oldest_too(tmp_path: Path) -> None:
    """A disk that takes nothing: the reader sees no record, and they wait all the same."""
    (tmp_path / "token").write_text(TOKEN)
    options = DeliveryOptions(
        engine="e-1", ledger_url=f"http://127.0.0.1:{free_port()}", spool_dir=tmp_path / "spool",
        token_file=tmp_path / "token",
    )  # fmt: skip
    delivery = Delivery(options, log=Log())  # not started: nothing is written
    for number in (3, 4):
        delivery.deliver(record(number, ended_s=float(number)))
    assert delivery.status().waiting_records == 2
    assert delivery.status().oldest_ended_s == 3.0
