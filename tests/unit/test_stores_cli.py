"""`tenantry stores` against a toy engine."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from tenantry import stores_cli
from tenantry.core.errors import RulesError, TenantryError
from tenantry.core.vector.operator import Steps
from tenantry.core.vector.scope import token_of
from tenantry_testing.toy_milvus import ToyMilvus

T = TypeVar("T")
Run = Callable[..., str]


class Admin:
    def __init__(self, engine: ToyMilvus) -> None:
        self.engine = engine

    async def version(self) -> str:
        return self.engine.version

    async def perform(self, steps: Steps[T]) -> T:
        return self.engine.run(steps)

    async def aclose(self) -> None:
        return


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ToyMilvus:
    toy = ToyMilvus()
    monkeypatch.setattr(stores_cli, "_admin", lambda *_: Admin(toy))
    return toy


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def of(isolation: str, *words: str, collections: object = None, kind: str = "milvus") -> str:
        rules = tmp_path / "rules.yaml"
        store = {"kind": kind, "endpoints": ["toy:1"], "isolation": isolation}
        document = {
            "version": 1,
            "models": {},
            "tiers": {"gold": {}},
            "tenants": {"acme": {"tier": "gold"}, "globex": {"tier": "gold"}},
            "stores": {"docs": store | ({"collections": collections} if collections else {})},
        }
        rules.write_bytes(msgspec.json.encode(document))
        stores_cli.app([words[0], str(rules), *words[1:]], result_action="return_value")
        return capsys.readouterr().out

    return of


def test_a_safe_store_is_proven(engine: ToyMilvus, run: Run) -> None:
    shown = run("collection", "prove")
    assert shown.splitlines() == [
        "docs: collection on toy-1",
        "  safe  own collections with INT64 keys",
        "  safe  own collections with VARCHAR keys",
    ]


def test_an_unsafe_store_ends_with_1(engine: ToyMilvus, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    engine.flaws.add("there are no databases")
    with pytest.raises(SystemExit) as ended:
        run("database", "prove", "--store", "docs")
    assert ended.value.code == 1
    assert "the engine has no databases. Use collection" in capsys.readouterr().out


def test_pinecone_needs_no_proof(engine: ToyMilvus, run: Run) -> None:
    assert "unit of isolation" in run("namespace", "prove", kind="pinecone")


def test_shared_collections_and_partitions_are_made_once(engine: ToyMilvus, run: Run) -> None:
    words = ("provision", "--store", "docs", "--create", "notes", "--dim", "4")
    notes = {"notes": {"spread": 2}}
    assert run("partition", *words, collections=notes).splitlines() == [
        "notes: made, indexed and loaded",
        "notes__1: made, indexed and loaded",
        "docs: 2 made, 0 were there, for 2 tenants",
        "  notes: 1 partitions of 1024",
        "  notes__1: 3 partitions of 1024",
    ]
    assert "docs: 0 made, 1 were there, for 1 tenants" in run(
        "partition", *words, "--tenant", "acme", collections=notes
    )
    assert token_of("acme") in engine.databases["default"]["notes__1"].partitions
    assert "safe  notes__1" in run("partition", "prove", collections=notes)


def test_keyprefix_gets_a_text_key_by_itself(engine: ToyMilvus, run: Run) -> None:
    words = ("provision", "--store", "docs", "--create", "notes", "--dim", "4")
    notes = {"notes": {"primaryField": "doc_id"}}
    with pytest.raises(TenantryError, match="--primary varchar"):
        run("keyprefix", *words, "--primary", "int64", collections=notes)
    run("keyprefix", *words, collections=notes)
    assert engine.databases["default"]["notes"].primary.name == "doc_id"
    assert "safe  notes" in run("keyprefix", "prove", collections=notes)


def test_what_cannot_be_made_is_told(engine: ToyMilvus, run: Run) -> None:
    notes: object = {"notes": {}}
    with pytest.raises(TenantryError, match="--dim"):
        run("partition", "provision", "--store", "docs", "--create", "notes", collections=notes)
    with pytest.raises(RulesError, match="no such shared collection"):
        run("partition", "provision", "--store", "docs", "--create", "note", "--dim", "4", collections=notes)
    with pytest.raises(RulesError, match="no such store"):
        run("partition", "provision", "--store", "doc", collections=notes)
    with pytest.raises(RulesError, match="no such tenant"):
        run("partition", "provision", "--store", "docs", "--tenant", "acne", collections=notes)
    with pytest.raises(TenantryError, match="come with the first row"):
        run("namespace", "provision", "--store", "docs", kind="pinecone")


@pytest.mark.parametrize(
    ("isolation", "collections", "line"),
    [
        ("database", None, "database     TOKEN"),
        ("collection", None, "collection   TOKEN_NAME for one named NAME"),
        ("partition", {"notes": {}}, "partition    TOKEN"),
        ("keyprefix", {"notes": {"primaryField": "id"}}, "key prefix   TOKEN:"),
        ("namespace", None, "namespace    TOKEN, and TOKEN.NAME for one named NAME"),
    ],
)
def test_where_a_tenant_s_rows_are_is_told(run: Run, isolation: str, collections: object, line: str) -> None:
    kind = "pinecone" if isolation == "namespace" else "milvus"
    shown = run(isolation, "explain", "--store", "docs", "--tenant", "acme", collections=collections, kind=kind)
    assert f"  {line.replace('TOKEN', token_of('acme'))}" in shown.splitlines()


def test_the_credential_is_the_secret_file_s(tmp_path: Path) -> None:
    assert stores_cli._secret("docs", tmp_path) is None
    (tmp_path / "store.docs").write_text("root:Milvus\n")
    assert stores_cli._secret("docs", tmp_path) == "root:Milvus"
