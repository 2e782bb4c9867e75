"""`tenantry tenant purge`: closed first, then dropped and counted again; each step can be done again."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from tenantry import off_board
from tenantry.adapters import store_purge
from tenantry.adapters.rules_edit import close_tenant
from tenantry.adapters.rules_file import load, read_rules
from tenantry.adapters.store_purge import MilvusHoldings, PineconeHoldings, found, purged
from tenantry.cli import app
from tenantry.core.errors import RulesError, TenantryError
from tenantry.core.rules_stores import Collection, Store
from tenantry.core.vector import provision, purge, scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import Need
from tenantry_standin.pinecone import RunningPinecone
from tenantry_standin.pinecone import start as start_pinecone
from tenantry_testing.documents import document
from tenantry_testing.toy_milvus import ToyMilvus

Run = Callable[..., list[str]]

DOCUMENT = """\
version: 1
models: {m: {stable: "1", versions: {"1": {endpoints: ["h:1"]}}}}
tiers: {gold: {}}
identity: {jwt: {issuer: i, audience: a, jwksFile: j, tierClaim: tier}}
tenants:
  # our first
  acme:
    tier: gold   # since May
    keys:
      - "sha256:KEY"
    adapters: {m: lora}
    quota: {computeUnitsPerPeriod: 5}
  globex: {tier: gold}   # stays
""".replace("KEY", "0" * 64)


# --- the document ------------------------------------------------------------------------------------------------


def closed(tmp_path: Path, text: str, tenant: str) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    assert close_tenant(path, tenant)
    assert not close_tenant(path, tenant)  # once more changes nothing
    after = read_rules(path.read_bytes())
    assert after.tenants[tenant].closed
    assert after.tenants[tenant].keys == ()
    return path.read_text()


def test_an_entry_says_closed_and_keeps_what_invoices_need(tmp_path: Path) -> None:
    after = closed(tmp_path, DOCUMENT, "acme")
    assert '  acme:\n    {"closed": true, "tier": "gold", "quota": {"computeUnitsPerPeriod": 5}}\n  globex' in after
    assert "# our first" in after
    assert "# stays" in after


@pytest.mark.parametrize(
    ("before", "line"),
    [
        (DOCUMENT, '\n  "umbrella": {"closed": true}\n  acme:'),
        ("version: 1\nmodels: {}\ntiers: {gold: {}}\ntenants: {}\n", 'tenants: {"umbrella": {"closed": true}}\n'),
        ("version: 1\nmodels: {}\ntiers: {gold: {}}", '\ntenants:\n  "umbrella": {"closed": true}\n'),
        (
            "version: 1\nmodels: {}\ntiers: {gold: {}}\ntenants: {a: {tier: gold}}\n",
            'tenants: {"umbrella": {"closed": true}, a: {tier: gold}}\n',
        ),
    ],
)
def test_a_tenant_that_only_a_token_names_gets_an_entry(tmp_path: Path, before: str, line: str) -> None:
    assert line in closed(tmp_path, before, "umbrella")


def test_what_cannot_be_spliced_is_left_to_a_person(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text('{"version": 1, "models": {}, "tiers": {"gold": {}}}')
    with pytest.raises(RulesError, match=r'umbrella.*edit it by hand: tenants.umbrella: \{"closed": true\}'):
        close_tenant(path, "umbrella")
    assert path.read_text() == '{"version": 1, "models": {}, "tiers": {"gold": {}}}'


def test_in_a_folder_the_tenants_own_part_is_edited(tmp_path: Path) -> None:
    whole: dict[str, Any] = document()
    tenants = whole.pop("tenants")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(whole))
    (tmp_path / "tenants-001.yaml").write_text(yaml.safe_dump({"tenants": {"acme": tenants["acme"]}}))
    (tmp_path / "tenants-002.yaml").write_text(yaml.safe_dump({"tenants": {"globex": tenants["globex"]}}))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    close_tenant(tmp_path, "acme")
    close_tenant(tmp_path, "umbrella")  # new: in the last part that has tenants
    changed = {path.name for path in tmp_path.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"tenants-001.yaml", "tenants-002.yaml"}
    assert {name for name, each in load(tmp_path).tenants.items() if each.closed} == {"acme", "umbrella"}


# --- stores ------------------------------------------------------------------------------------------------------


def shared(isolation: Any) -> Store:
    primary = "id" if isolation == "keyprefix" else None
    return Store(
        kind="milvus", endpoints=("toy:1",), isolation=isolation,
        collections={"notes": Collection(primary_field=primary)},
    )  # fmt: skip


def toy(store: Store, *flaws: str) -> ToyMilvus:
    """Both tenants have three rows."""
    engine = ToyMilvus(*flaws)
    engine.run(provision.make_shared(provision.SharedCollection(name="notes", dim=2, max_length=64)))
    for tenant in ("acme", "globex"):
        partition = scope.partition_of(tenant) if store.isolation == "partition" else ""
        engine.run(provision.provide(Need(collection="notes", partition=partition)))
        add(engine, tenant, partition)
    return engine


def add(engine: ToyMilvus, tenant: str, partition: str) -> None:
    request = pb.InsertRequest(collection_name="notes", partition_name=partition, num_rows=3)
    for field in ("id", "tenant_id"):
        column = request.fields_data.add(field_name=field, type=21).scalars.string_data.data
        column.extend([f"{scope.key_prefix_of(tenant)}{row}" if field == "id" else tenant for row in range(3)])
    engine._Insert(request.SerializeToString())


def in_toy(engine: ToyMilvus, store: Store, tenant: str, monkeypatch: pytest.MonkeyPatch) -> MilvusHoldings:
    class Admin:
        def __init__(self, *_: object) -> None:
            return

        async def perform(self, steps: Any) -> Any:
            return engine.run(steps)

        async def aclose(self) -> None:
            return

    monkeypatch.setattr(store_purge, "MilvusAdmin", Admin)
    monkeypatch.setattr(store_purge, "PAUSE_SECONDS", 0.0)
    return MilvusHoldings(store, tenant, None)


async def test_rows_are_deleted_by_their_stamp_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    store = shared("keyprefix")
    engine = toy(store)
    assert await purged(in_toy(engine, store, "acme", monkeypatch)) == ["3 rows of notes"]
    assert await purged(in_toy(engine, store, "acme", monkeypatch)) == []
    assert await found(in_toy(engine, store, "globex", monkeypatch)) == ["3 rows of notes"]


async def test_rows_outside_of_the_partition_are_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    store = shared("partition")
    engine = toy(store)
    add(engine, "acme", "_default")
    token = scope.token_of("acme")
    assert await purged(in_toy(engine, store, "acme", monkeypatch)) == [
        f"partition {token} of notes",
        "3 rows of notes",
    ]
    assert await found(in_toy(engine, store, "globex", monkeypatch)) == [
        f"partition {scope.token_of('globex')} of notes"
    ]


@pytest.mark.parametrize(
    ("isolation", "flaw"), [("keyprefix", "a delete does nothing"), ("partition", "a partition is not dropped")]
)
async def test_what_an_engine_does_not_drop_is_told(isolation: str, flaw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shared(isolation)
    engine = toy(store, flaw)
    with pytest.raises(TenantryError, match=r"still there: .* notes"):
        await purged(in_toy(engine, store, "acme", monkeypatch))


def test_a_shared_collection_that_is_not_there_holds_nothing() -> None:
    assert ToyMilvus().run(purge.held(shared("keyprefix"), "acme")) == []


@pytest.fixture
async def pinecone() -> Any:
    running = await start_pinecone()
    yield running
    await running.stop()


async def test_namespaces_of_pinecone(pinecone: RunningPinecone) -> None:
    """The stand-in."""
    store = Store(kind="pinecone", endpoints=(f"127.0.0.1:{pinecone.rest_port}",), isolation="namespace")
    for tenant in ("acme", "globex"):
        for name in ("", "docs"):
            filled = PineconeHoldings(store, tenant, "key")
            vector = {"id": "1", "values": [1.0, 0.0], "metadata": {"tenant_id": tenant}}
            await filled._ask("/vectors/upsert", {"namespace": scope.namespace_of(tenant, name), "vectors": [vector]})
    mine = {scope.namespace_of("acme"), scope.namespace_of("acme", "docs")}
    assert set(await purged(PineconeHoldings(store, "acme", "key"))) == mine
    assert await found(PineconeHoldings(store, "acme", "key")) == []
    assert len(await found(PineconeHoldings(store, "globex", "key"))) == 2


async def test_a_store_out_of_reach_is_told() -> None:
    store = Store(kind="pinecone", endpoints=("127.0.0.1:1",), isolation="namespace")
    with pytest.raises(TenantryError, match=r"http://127\.0\.0\.1:1 does not answer"):
        await found(PineconeHoldings(store, "acme", None))


# --- the command -------------------------------------------------------------------------------------------------


class Sidecar:
    """A sidecar's admin listener, as far as a purge asks it: it has the document after some looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.asked: list[str] = []

    async def document(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        self.looks -= 1
        return web.json_response({"tenants": {"acme": {"closed": self.looks < 0}}})

    async def forget(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        return web.json_response({})


@contextmanager
def listening(sidecar: Sidecar) -> Iterator[str]:
    loop, ready, where = asyncio.new_event_loop(), threading.Event(), []
    stopped = asyncio.Event()

    async def serve() -> None:
        application = web.Application()
        application.add_routes(
            [web.get("/rules/document", sidecar.document), web.delete("/tenants/{name}", sidecar.forget)]
        )
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        where.append(f"127.0.0.1:{runner.addresses[0][1]}")
        ready.set()
        await stopped.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(10)
    try:
        yield where[0]
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "rules.yaml").write_text(DOCUMENT)
    (tmp_path / "admin-token").write_text("a" * 40)
    monkeypatch.setattr(off_board, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(off_board, "POLL_SECONDS", 0.01)

    def command(*words: str, ends: int = 0) -> list[str]:
        line = ["tenant", "purge", "acme", "--rules", str(tmp_path / "rules.yaml"), "--secrets", str(tmp_path), *words]
        if ends:
            with pytest.raises(SystemExit) as ended:
                app(line, result_action="return_value")
            assert ended.value.code == ends
        else:
            app(line, result_action="return_value")
        return [line.strip() for line in capsys.readouterr().out.splitlines()]

    return command


def with_store(tmp_path: Path, endpoint: str = "127.0.0.1:1") -> None:
    store = f"stores: {{docs: {{kind: pinecone, endpoints: ['{endpoint}'], isolation: namespace}}}}\n"
    (tmp_path / "rules.yaml").write_text(DOCUMENT + store)


def test_without_yes_nothing_changes(run: Run, tmp_path: Path) -> None:
    sidecar = Sidecar(looks=1)
    with listening(sidecar) as admin:
        shown = run("--admin", admin)
    assert shown[0].startswith("would do      close: 1 keys revoked; adapters lora taken from the rules (engines that")
    assert shown[1] == f"would do      wait for {admin}"
    assert shown[-1] == "Nothing was changed. --yes does it."
    assert (tmp_path / "rules.yaml").read_text() == DOCUMENT
    assert sidecar.asked == ["GET /rules/document"]


def test_it_closes_waits_and_then_drops(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_store(tmp_path)
    sidecar, there = Sidecar(looks=2), ["a", "b"]

    class Held:
        async def find(self) -> list[str]:
            sidecar.asked.append("find")
            return list(there)

        async def drop(self, holding: str) -> None:
            assert load(tmp_path / "rules.yaml").tenants["acme"].closed
            there.remove(holding)

        async def aclose(self) -> None:
            return

    monkeypatch.setattr(store_purge, "open_holdings", lambda *_: Held())
    with listening(sidecar) as admin:
        shown = run("--yes", "--admin", admin)
        looked = ["GET /rules/document"]
        assert sidecar.asked == [*looked * 3, "find", "find", "DELETE /tenants/acme"]  # never dropped before it is live
        assert [line.split("  ")[0] for line in shown] == ["done", "done", "done", "done", "kept"]
        assert "drop from docs: a, b; a count afterwards found nothing" in shown[2]
        again = run("--yes", "--admin", admin)
        assert [line.split("  ")[0] for line in again] == ["already done"] * 3 + ["done", "kept"]


def test_while_a_sidecar_does_not_have_the_document_nothing_is_dropped(run: Run, tmp_path: Path) -> None:
    with_store(tmp_path)
    sidecar = Sidecar(looks=10**6)
    with listening(sidecar) as admin:
        shown = run("--yes", "--admin", admin, "--wait-seconds", "0.05", ends=1)
    assert shown[1].startswith(f"failed        wait for {admin}: it does not have the document after 0.05 s; deploy")
    assert shown[2:4] == ["not begun     drop from docs", f"not begun     forget at {admin}"]
    assert "DELETE /tenants/acme" not in sidecar.asked


def test_a_store_that_fails_is_told_and_ends_with_1(run: Run, tmp_path: Path) -> None:
    with_store(tmp_path)
    shown = run("--yes", ends=1)
    assert shown[1].startswith("failed        drop from docs: http://127.0.0.1:1 does not answer")
    assert "nobody made sure that sidecars refuse the tenant already" in shown[-2]
    assert shown[-1] == "Not all is done: mend it and run the same command again."


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TenantryError, match="is no tenant's name"):
        app(["tenant", "purge", 'a" or "', "--rules", str(tmp_path)], result_action="return_value")
