"""The gate before stores: closed until proven, and when the engine changes; what tenants need is made once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from prometheus_client import CollectorRegistry
from tenantry.adapters import store_proofs, store_provisions, store_watch
from tenantry.adapters.store_metrics import StoreMetrics
from tenantry.adapters.store_provisions import Provisions
from tenantry.adapters.store_verdicts import VerdictFile
from tenantry.adapters.stores import Stores
from tenantry.core.errors import ForbiddenError, UnavailableError
from tenantry.core.keyring import keyring
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules, Tier
from tenantry.core.rules_stores import Collection, Store
from tenantry.core.session import Snapshot
from tenantry.core.vector import provision
from tenantry.core.vector.calls import Need, StoreOf
from tenantry.core.vector.operator import Steps, StoreCallError
from tenantry_testing.toy_milvus import ToyMilvus

T = TypeVar("T")

SECRETS = dict.fromkeys(("cache-salt", "split", "admin-token", "usage-token"), b"x" * 32)


class FakeAdmin:
    """A client of a toy engine that can be cut off, slow, or told that its connection ended."""

    def __init__(self, engine: ToyMilvus) -> None:
        self.engine = engine
        self.reachable = True
        self.held = asyncio.Event()
        self.held.set()
        self.cut = asyncio.Event()
        self.closed = False
        self.proofs = 0

    async def version(self) -> str:
        if not self.reachable:
            raise StoreCallError("GetVersion", "unreachable", "UNAVAILABLE")
        return self.engine.version

    async def perform(self, steps: Steps[T]) -> T:
        await self.held.wait()
        if not self.reachable:
            raise StoreCallError("Insert", "unreachable", "UNAVAILABLE")
        before = self.engine.calls.count("Insert")
        try:
            return self.engine.run(steps)
        finally:
            self.proofs += self.engine.calls.count("Insert") > before

    async def disturbed(self) -> None:
        await self.cut.wait()
        self.cut.clear()

    async def aclose(self) -> None:
        self.closed = True


class Gate:
    """Stores over one toy engine."""

    def __init__(self, path: Path, engine: ToyMilvus | None = None) -> None:
        self.registry = CollectorRegistry()
        self.rules: dict[str, Store] = {}
        self.admin = FakeAdmin(engine or ToyMilvus())
        self.stores = Stores(
            StoreMetrics(self.registry), path / "stores.json", connect=lambda _store, _secret: self.admin,
            recheck_seconds=0.02,
        )  # fmt: skip

    def live(self, *, secret: bytes = b"user:password", **stores: Store) -> None:
        self.rules = stores
        rules = Rules(version=1, models={}, tiers={"gold": Tier()}, stores=stores)
        secrets = SECRETS | {f"store.{name}": secret for name in stores}
        self.stores.rules_live(Snapshot(book=RuleBook(rules), keyring=keyring(secrets, stores=tuple(stores))))

    def of(self, name: str = "docs", store: Store | None = None) -> StoreOf:
        """What a request of acme asks about, by the rules that are live unless others are given."""
        return StoreOf(tenant="acme", name=name, store=store or self.rules.get(name, collection_store()))

    @property
    def open(self) -> bool:
        try:
            self.stores.check(self.of())
        except (UnavailableError, ForbiddenError):
            return False
        return True

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"store": "docs"} | labels)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_watch, "FIRST_RETRY_SECONDS", 0.005)
    monkeypatch.setattr(store_watch, "LAST_RETRY_SECONDS", 0.02)


@pytest.fixture
async def gates(tmp_path: Path) -> AsyncIterator[Callable[..., Gate]]:
    made: list[Gate] = []

    def make(engine: ToyMilvus | None = None) -> Gate:
        made.append(Gate(tmp_path, engine))
        return made[-1]

    yield make
    for gate in made:
        await gate.stores.stop()


def collection_store(**changes: object) -> Store:
    return Store(kind="milvus", endpoints=("toy:1",), isolation="collection", **changes)  # type: ignore[arg-type]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


async def test_a_store_opens_once_it_is_proven(gates: Callable[..., Gate]) -> None:
    gate = gates()
    gate.live(docs=collection_store())
    with pytest.raises(UnavailableError, match="not in use yet") as refused:
        gate.stores.check(gate.of())
    assert refused.value.code == "store_not_proven"
    assert gate.metric("tenantry_store_safe") == 0
    await until(lambda: gate.open)
    assert gate.metric("tenantry_store_safe") == 1
    assert gate.metric("tenantry_store_proofs_total", result="safe") == 1
    assert gate.admin.engine.names() == []  # nothing is left of the proof
    with pytest.raises(UnavailableError):
        gate.stores.check(gate.of("another"))


async def test_an_unsafe_store_is_refused_and_told_to_the_operator(
    gates: Callable[..., Gate],
) -> None:
    gate = gates(ToyMilvus("an upsert replaces the key in every partition"))
    gate.admin.engine.run(provision.make_shared(provision.SharedCollection(name="notes", dim=4)))
    gate.live(
        docs=Store(kind="milvus", endpoints=("toy:1",), isolation="partition", collections={"notes": Collection()})
    )
    await until(lambda: gate.stores.status()[0].standing == "unsafe")
    with pytest.raises(ForbiddenError) as refused:
        gate.stores.check(gate.of())
    assert refused.value.code == "store_unsafe"
    assert "tenant" not in refused.value.message
    (status,) = gate.stores.status()
    assert "B lost 2 rows. Use collection, or keyprefix" in status.reasons[0]
    assert gate.metric("tenantry_store_proofs_total", result="unsafe") == 1
    proofs = gate.admin.proofs
    await asyncio.sleep(0.1)
    assert gate.admin.proofs == proofs  # not again and again


async def test_an_unsafe_store_that_was_out_of_reach_is_still_unsafe(gates: Callable[..., Gate]) -> None:
    gate = gates(ToyMilvus("a delete does nothing"))
    gate.live(docs=collection_store())

    def standing() -> str:
        return gate.stores.status()[0].standing

    await until(lambda: standing() == "unsafe")
    gate.admin.reachable = False
    await until(lambda: standing() == "unproven")
    assert not gate.open
    gate.admin.reachable = True
    await until(lambda: standing() == "unsafe")
    assert not gate.open


async def test_an_engine_without_a_version_is_proven_anew_after_it_was_out_of_reach(gates: Callable[..., Gate]) -> None:
    gate = gates(ToyMilvus(version=""))
    gate.live(docs=collection_store())
    await until(lambda: gate.open)
    gate.admin.reachable = False
    await until(lambda: not gate.open)
    gate.admin.reachable = True
    await until(lambda: gate.metric("tenantry_store_proofs_total", result="safe") == 2)


async def test_a_missing_collection_closes_a_store_until_it_is_made(gates: Callable[..., Gate]) -> None:
    gate = gates()
    gate.live(
        docs=Store(kind="milvus", endpoints=("toy:1",), isolation="partition", collections={"notes": Collection()})
    )
    await until(lambda: "does not exist" in str(gate.stores.status()[0].reasons))
    gate.admin.engine.run(provision.make_shared(provision.SharedCollection(name="notes", dim=4)))
    await until(lambda: gate.open)


async def test_an_engine_out_of_reach_is_tried_again(gates: Callable[..., Gate]) -> None:
    gate = gates()
    gate.admin.reachable = False
    gate.live(docs=collection_store())
    await until(lambda: (gate.metric("tenantry_store_proofs_total", result="failed") or 0) >= 3)
    assert not gate.open
    gate.admin.reachable = True
    await until(lambda: gate.open)


async def test_a_client_that_cannot_be_made_is_tried_again(gates: Callable[..., Gate]) -> None:
    gate = gates()
    failures = [OSError("no such file"), StoreCallError("TLS", "unreachable", "no such file")]

    def connect(_store: Store, _secret: str | None) -> FakeAdmin:
        if failures:
            raise failures.pop()
        return gate.admin

    gate.stores._connect = connect
    gate.live(docs=collection_store())
    await until(lambda: gate.open)
    assert not failures


async def test_another_version_closes_the_gate_until_it_is_proven(gates: Callable[..., Gate]) -> None:
    gate = gates()
    gate.live(docs=collection_store())
    await until(lambda: gate.open)
    gate.admin.held.clear()  # the next proof waits
    gate.admin.engine.version = "toy-2"
    gate.admin.held.set()
    await until(lambda: gate.stores.status()[0].version == "toy-2")
    await until(lambda: gate.open)
    assert gate.metric("tenantry_store_proofs_total", result="safe") == 2
    gate.admin.engine.flaws.add("a delete does nothing")
    gate.admin.engine.version = "toy-3"
    await until(lambda: gate.stores.status()[0].standing == "unsafe")
    assert not gate.open


async def test_while_another_version_is_proven_nobody_passes(
    gates: Callable[..., Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gates()
    gate.live(docs=collection_store())
    await until(lambda: gate.open)
    proving = asyncio.Event()

    async def endless(*_: object) -> None:
        proving.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(store_watch, "prove", endless)
    gate.admin.engine.version = "toy-2"
    await proving.wait()
    assert not gate.open


async def test_a_busy_engine_closes_an_open_gate_only_after_some_misses(gates: Callable[..., Gate]) -> None:
    gate = gates()
    gate.live(docs=collection_store())
    await until(lambda: gate.open)
    gate.admin.reachable = False
    await until(lambda: (gate.metric("tenantry_store_proofs_total", result="failed") or 0) >= 1)
    assert gate.open
    await until(lambda: not gate.open)
    proofs = gate.admin.proofs
    gate.admin.reachable = True
    await until(lambda: gate.open)
    assert gate.admin.proofs == proofs  # the same engine: what was proven holds


async def test_a_lost_connection_closes_the_gate_unless_the_engine_is_the_same(
    gates: Callable[..., Gate],
) -> None:
    gate = gates()
    gate.stores._recheck_seconds = 60
    gate.live(docs=collection_store())
    await until(lambda: gate.open)
    gate.admin.cut.set()
    await asyncio.sleep(0.05)
    assert gate.open  # the same engine
    gate.admin.reachable = False
    gate.admin.cut.set()
    await until(lambda: not gate.open)
    assert gate.metric("tenantry_store_proofs_total", result="failed") == 1  # at the first look


async def test_an_engine_without_a_version_is_proven_anew_after_a_lost_connection(
    gates: Callable[..., Gate],
) -> None:
    gate = gates(ToyMilvus(version=""))
    gate.stores._recheck_seconds = 60
    gate.live(docs=collection_store())
    await until(lambda: gate.open)
    gate.admin.cut.set()
    await until(lambda: gate.metric("tenantry_store_proofs_total", result="safe") == 2)


async def test_a_bug_in_the_proof_closes_the_gate_and_the_watch_goes_on(
    gates: Callable[..., Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gates()
    gate.live(docs=collection_store())
    await until(lambda: gate.open)

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(store_watch, "find", broken)
    await until(lambda: not gate.open)
    monkeypatch.setattr(store_watch, "find", store_proofs.find)
    await until(lambda: gate.open)


async def test_a_restart_goes_by_what_was_proven_here(gates: Callable[..., Gate]) -> None:
    first = gates()
    first.live(docs=collection_store())
    await until(lambda: first.open)
    second = gates(ToyMilvus("a delete does nothing"))  # had it been proven again, it would be closed
    second.live(docs=collection_store())
    await until(lambda: second.open)
    assert second.admin.proofs == 0


@pytest.mark.parametrize("change", ["version", "layout", "endpoint", "name", "schema", "code"])
async def test_a_restart_proves_again_what_changed(
    gates: Callable[..., Gate], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = Store(kind="milvus", endpoints=("toy:1",), isolation="partition", collections={"notes": Collection()})
    first = gates()
    first.admin.engine.run(provision.make_shared(provision.SharedCollection(name="notes", dim=4)))
    first.live(docs=rules)
    await until(lambda: first.open)
    second = gates(ToyMilvus(version="toy-2" if change == "version" else "toy-1"))
    wanted = provision.SharedCollection(name="notes", dim=8 if change == "schema" else 4, max_length=64)
    if change not in ("layout", "schema"):
        wanted = provision.SharedCollection(name="notes", dim=4)
    second.admin.engine.run(provision.make_shared(wanted))
    if change == "code":
        monkeypatch.setattr(store_proofs, "rewriting", lambda: "other")
    again = Store(
        kind="milvus",
        endpoints=("toy:2" if change == "endpoint" else "toy:1",),
        isolation="keyprefix" if change == "layout" else "partition",
        collections={"notes": Collection(primary_field="id" if change == "layout" else None)},
    )
    if change == "name":
        second.live(other=again)
    else:
        second.live(docs=again)
    await until(lambda: second.stores.status()[0].standing == "safe")
    assert second.admin.proofs == 1


async def test_an_engine_without_a_version_is_proven_at_each_start(gates: Callable[..., Gate]) -> None:
    for _ in range(2):
        gate = gates(ToyMilvus(version=""))
        gate.live(docs=collection_store())
        await until(lambda gate=gate: gate.open)  # type: ignore[misc]
        assert gate.admin.proofs > 0


def test_a_file_of_verdicts_that_is_not_one_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "stores.json"
    kept = VerdictFile(path)
    assert not kept.holds("k")
    kept.keep("k", 1.0)
    assert kept.holds("k")
    assert path.stat().st_mode & 0o777 == 0o600
    for number in range(300):
        kept.keep(f"k{number}", 2.0 + number)
    assert [kept.holds("k"), kept.holds("k299")] == [False, True]
    path.write_text('{"safe": ["k299"]}')
    assert not kept.holds("k299")
    assert [each.name for each in path.parent.iterdir()] == ["stores.json"]


async def test_a_reload_leaves_a_store_open_unless_its_rules_or_secret_change(gates: Callable[..., Gate]) -> None:
    gate = gates()
    gate.live(docs=collection_store())
    await until(lambda: gate.open)
    gate.live(docs=collection_store(hosts=("vectors.example",), load_and_flush=True))
    assert gate.open
    gate.live(docs=collection_store(tenant_field="owner"))
    assert not gate.open
    await until(lambda: gate.open)
    gate.live(secret=b"other:password", docs=collection_store(tenant_field="owner"))
    assert not gate.open
    await until(lambda: gate.open)
    gate.live()
    assert not gate.open
    assert gate.metric("tenantry_store_safe") is None
    await until(lambda: gate.admin.closed)


async def test_a_pinecone_is_open_at_once(gates: Callable[..., Gate]) -> None:
    gate = gates()
    gate.live(docs=Store(kind="pinecone", endpoints=("toy:1",), isolation="namespace"))
    assert gate.open
    assert gate.metric("tenantry_store_safe") == 1
    gate.live()
    assert not gate.open


async def test_an_exchange_that_began_by_other_rules_is_not_let_in_by_the_new_ones(
    gates: Callable[..., Gate],
) -> None:
    """It keeps the rules that it began with, and what was proven is not what they say."""
    gate = gates()
    gate.live(docs=collection_store())
    await until(lambda: gate.open)
    gate.stores.check(gate.of(store=collection_store()))  # equal rules, parsed anew
    gate.stores.check(gate.of(store=collection_store(hosts=("vectors.example",))))  # not about rows
    for other in (
        collection_store(tenant_field="owner"),
        Store(kind="milvus", endpoints=("toy:1",), isolation="database"),
    ):
        with pytest.raises(UnavailableError, match="not in use yet"):
            gate.stores.check(gate.of(store=other))


async def test_what_a_tenant_needs_is_made_once_and_remembered(gates: Callable[..., Gate]) -> None:
    gate = gates()
    need = Need(database="tacme")
    with pytest.raises(UnavailableError):
        await gate.stores.provide(gate.of(), need)  # never before the proof
    gate.live(docs=Store(kind="milvus", endpoints=("toy:1",), isolation="database"))
    await until(lambda: gate.open)
    assert not gate.stores.provided(gate.of(), need)
    before = gate.admin.engine.calls.count("CreateDatabase")
    await asyncio.gather(*(gate.stores.provide(gate.of(), need) for _ in range(20)))
    assert gate.admin.engine.calls.count("CreateDatabase") == before + 1
    assert gate.stores.provided(gate.of(), need)
    assert gate.metric("tenantry_store_provisioned_total", kind="database") == 1
    gate.stores.forget(gate.of(), need)
    assert not gate.stores.provided(gate.of(), need)
    await gate.stores.provide(gate.of(), need)  # there already: fine, and not counted
    assert gate.stores.provided(gate.of(), need)
    assert gate.metric("tenantry_store_provisioned_total", kind="database") == 1


async def test_another_engine_has_nothing_of_what_was_made(gates: Callable[..., Gate]) -> None:
    gate = gates()
    gate.live(docs=Store(kind="milvus", endpoints=("toy:1",), isolation="database"))
    await until(lambda: gate.open)
    need = Need(database="tacme")
    await gate.stores.provide(gate.of(), need)
    gate.admin.engine.version = "toy-2"
    await until(lambda: gate.stores.status()[0].version == "toy-2" and gate.open)
    assert not gate.stores.provided(gate.of(), need)


def provisions(admin: FakeAdmin | None, **options: float) -> Provisions:
    return Provisions("docs", StoreMetrics(CollectorRegistry()), lambda: admin, **options)  # type: ignore[arg-type]


async def test_a_full_store_is_refused_and_not_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = FakeAdmin(ToyMilvus())
    admin.engine.databases |= {f"t{number}": {} for number in range(70)}
    made = provisions(admin)
    for _ in range(3):
        with pytest.raises(ForbiddenError, match="no room for another tenant") as refused:
            await made.meet(Need(database="tacme"))
        assert refused.value.code == "store_full"
    assert admin.engine.calls.count("CreateDatabase") == 1
    monkeypatch.setattr(store_provisions, "REFUSAL_SECONDS", 0.0)
    made.forget()
    admin.engine.databases.clear()
    await made.meet(Need(database="tacme"))


async def test_a_slow_store_is_not_waited_for_but_goes_on() -> None:
    admin = FakeAdmin(ToyMilvus())
    admin.held.clear()
    made = provisions(admin, wait_seconds=0.01)
    need = Need(database="tacme")
    for _ in range(2):
        with pytest.raises(UnavailableError) as refused:
            await made.meet(need)
        assert refused.value.code == "store_not_ready"
    admin.held.set()
    await until(lambda: made.met(need))
    assert admin.engine.calls == ["CreateDatabase"]


async def test_a_client_that_goes_away_does_not_stop_what_others_wait_for() -> None:
    admin = FakeAdmin(ToyMilvus())
    admin.held.clear()
    made = provisions(admin)
    need = Need(database="tacme")
    first, second = (asyncio.ensure_future(made.meet(need)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    admin.held.set()
    await second
    with contextlib.suppress(asyncio.CancelledError):
        await first
    assert made.met(need)


async def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    admin = FakeAdmin(ToyMilvus())
    made = provisions(admin, remembered=3)
    needs = [Need(database=f"t{number}") for number in range(4)]
    for need in needs[:3]:
        await made.meet(need)
    assert made.met(needs[0])  # used again: now the youngest
    await made.meet(needs[3])
    assert [made.met(need) for need in needs] == [True, False, True, True]


async def test_a_store_without_a_connection_makes_nothing() -> None:
    with pytest.raises(UnavailableError):
        await provisions(None).meet(Need(database="tacme"))


async def test_what_was_made_before_everything_was_forgotten_is_not_remembered() -> None:
    admin = FakeAdmin(ToyMilvus())
    admin.held.clear()
    made = provisions(admin)
    waiting = asyncio.ensure_future(made.meet(Need(database="tacme")))
    await asyncio.sleep(0.01)
    made.forget()
    admin.held.set()
    await waiting
    assert not made.met(Need(database="tacme"))


async def test_nothing_is_left_running(gates: Callable[..., Gate]) -> None:
    gate = gates()
    gate.admin.held.clear()
    gate.live(docs=collection_store())
    await asyncio.sleep(0.01)
    await gate.stores.stop()
    assert gate.admin.closed
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
