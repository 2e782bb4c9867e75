"""The proof with two canary tenants, against a toy engine that is whole, or has one flaw."""

import re

import pytest
from tenantry.core.rules_base import TENANT_PATTERN
from tenantry.core.rules_stores import Collection, Store
from tenantry.core.vector import canaries, fit, milvus_writes, probe, provision
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import Need
from tenantry.core.vector.canary_rows import columns, rows_of
from tenantry.core.vector.layout import Layout
from tenantry.core.vector.milvus_rows import tenant_column
from tenantry.core.vector.operator import Pause, Send, Steps
from tenantry.core.vector.probe import Verdict
from tenantry_testing.toy_milvus import ToyMilvus

NOW = 1_800_000_000.0


def store(isolation: str, **shared: Collection) -> Store:
    return Store(kind="milvus", endpoints=("toy:1",), isolation=isolation, collections=shared)  # type: ignore[arg-type]


def proven(engine: ToyMilvus, isolation: str, *, text: bool = False, auto: bool = False) -> Verdict:
    """Prove a layout, clean up, and check that nothing stayed behind."""
    before = sorted(engine.names()), sorted(engine.databases)
    if isolation in ("database", "collection"):
        rules = store(isolation)
        scratch = canaries.scratch_of("docs", rules, canaries.scratch_name(NOW, b"abcd"), 3, None)
        verdict = engine.run(probe.prove_own(scratch, "VARCHAR" if text else "INT64", "toy 1"))
    else:
        text = text or isolation == "keyprefix"
        wanted = provision.SharedCollection(name="docs", dim=4, max_length=64 if text else None)
        engine.run(provision.make_shared(wanted))
        next(iter(engine.databases["default"].values())).primary.autoID = auto
        rules = store(isolation, docs=Collection(primary_field="id" if isolation == "keyprefix" else None))
        (shared,) = engine.run(fit.survey(rules))
        assert not shared.problems
        scratch = canaries.scratch_of("docs", rules, canaries.scratch_name(NOW, b"abcd"), 3, shared.rules)
        before = sorted(engine.names()), sorted(engine.databases)
        verdict = engine.run(probe.prove_shared(scratch, shared, "toy 1"))
    engine.run(canaries.clean(scratch))
    if "a drop takes all collections" not in engine.flaws:
        assert (sorted(engine.names()), sorted(engine.databases)) == before
    return verdict


@pytest.mark.parametrize("isolation", ["database", "collection", "partition", "keyprefix"])
@pytest.mark.parametrize("text", [False, True])
def test_a_whole_engine_is_safe_in_every_layout(isolation: str, text: bool) -> None:
    assert proven(ToyMilvus(), isolation, text=text) == Verdict(
        about={
            "partition": "docs",
            "keyprefix": "docs",
        }.get(isolation, f"own collections with {'VARCHAR' if text else 'INT64'} keys"),
        safe=True,
    )


def test_keys_that_the_engine_makes_are_safe_in_partitions() -> None:
    engine = ToyMilvus()
    assert proven(engine, "partition", auto=True).safe
    assert engine.calls.count("Upsert") == 2  # tried, and refused by the engine


@pytest.mark.parametrize(
    ("flaw", "isolation", "words"),
    [
        ("an insert replaces the key in every partition", "partition",
         "inserted rows with primary keys of tenant B, B lost"),
        ("an upsert replaces the key in every partition", "partition",
         "upserted rows with primary keys of tenant B, B lost"),
        ("a delete does nothing", "partition", "its own rows are not what it asked for"),
        ("a delete does nothing", "database", "its own rows are not what it asked for"),
        ("an upsert does nothing", "keyprefix", "its own rows are not what it asked for"),
        ("reads ignore partitions", "partition", "a row of another tenant was among those of B"),
        ("writes ignore partitions", "partition", "rows that a tenant inserted are not where they belong"),
        ("reads ignore filters", "keyprefix", "Query answered a tenant with a row of another"),
        ("counts ignore filters", "keyprefix", "a tenant's count is not that of its own rows"),
        ("searches ignore filters", "keyprefix", "Search answered a tenant with a row of another"),
        ("databases are ignored", "database", "the engine ignores databases"),
        ("there are no databases", "database", "the engine has no databases"),
        ("there are no partitions", "partition", "the engine has no partitions"),
        ("keys are cut to 27 characters", "keyprefix", "rows that a tenant inserted are not where they belong"),
        ("an upsert keeps the row that is there", "keyprefix", "its own row has not changed"),
        ("writes go to the default partition too", "partition", "rows were where no tenant's belong"),
        ("searches find nothing", "database", "a tenant's search does not find its own rows"),
        ("a query misses a row", "database", "a tenant's query does not find its own rows"),
        ("collections are not listed", "collection", "a tenant's new collection is not where it belongs"),
        ("a drop takes all collections", "collection", "dropped its collection of the same name"),
    ],
)  # fmt: skip
def test_a_flaw_is_found_and_told(flaw: str, isolation: str, words: str) -> None:
    verdict = proven(ToyMilvus(flaw), isolation)
    assert not verdict.safe
    assert words in verdict.reason
    assert verdict.reason.startswith(f"{isolation} is not safe on toy 1: ")
    assert "Use " in verdict.reason


def test_a_delete_that_ignores_its_partition_is_held_by_the_filter_alone() -> None:
    # The guard names the tenant in every delete; the proof shows layout and filter together.
    assert proven(ToyMilvus("a delete ignores its partition"), "partition").safe


def test_rewriting_that_forgets_the_prefix_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_writes, "_prefix_keys", lambda *_: None)
    verdict = proven(ToyMilvus(), "keyprefix")
    assert not verdict.safe


def test_rewriting_that_stamps_the_wrong_tenant_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_writes, "tenant_column", lambda field, _tenant, rows: tenant_column(field, "acme", rows))
    for isolation in ("database", "collection", "partition", "keyprefix"):
        assert not proven(ToyMilvus(), isolation).safe


def test_rewriting_that_lists_the_collections_of_all_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layout, "name_of", lambda _layout, physical: physical)
    assert "not shown its own collection alone" in proven(ToyMilvus(), "collection").reason


def test_what_is_wrong_with_a_shared_collection_is_told() -> None:
    engine = ToyMilvus()
    made = {
        "none": None,
        "no_field": provision.SharedCollection(name="no_field", dim=4, tenant_field="owner"),
        "number": provision.SharedCollection(name="number", dim=4),
        "short_key": provision.SharedCollection(name="short_key", dim=4, max_length=28),
        "made_key": provision.SharedCollection(name="made_key", dim=4, max_length=64),
        "fine": provision.SharedCollection(name="fine", dim=4, max_length=64),
    }
    for wanted in made.values():
        if wanted is not None:
            engine.run(provision.make_shared(wanted))
    engine.databases["default"]["made_key"].primary.autoID = True
    rules = store("keyprefix", **dict.fromkeys(made, Collection(primary_field="id")))
    problems = {each.name: each.problems for each in engine.run(fit.survey(rules))}
    assert problems["fine"] == ()
    assert "does not exist" in problems["none"][0]
    assert 'it has no field "tenant_id"' in problems["no_field"][0]
    assert "is not VARCHAR" in problems["number"][0]
    assert "(auto_id)" in problems["made_key"][0]
    assert "too short: the prefix alone takes 28" in problems["short_key"][0]


def test_a_short_tenant_field_and_a_partition_key_are_told() -> None:
    engine = ToyMilvus()
    engine.run(provision.make_shared(provision.SharedCollection(name="docs", dim=4)))
    tenant = engine.databases["default"]["docs"].schema.fields[1]
    tenant.type_params[0].value = "62"
    tenant.is_partition_key = True
    (shared,) = engine.run(fit.survey(store("partition", docs=Collection())))
    assert ["too short for a tenant's name" in shared.problems[0], "partition key" in shared.problems[1]] == [True] * 2


def test_equal_collections_have_one_digest_and_others_another() -> None:
    engine = ToyMilvus()
    for name, dim in (("docs", 4), ("docs__1", 4), ("docs__2", 8)):
        engine.run(provision.make_shared(provision.SharedCollection(name=name, dim=dim)))
    first, second, third = engine.run(fit.survey(store("partition", docs=Collection(spread=3))))
    assert first.digest == second.digest != third.digest


def test_leftovers_are_swept_and_nothing_else() -> None:
    engine = ToyMilvus()
    old, young = (canaries.scratch_name(when, b"wxyz") for when in (NOW - 1000, NOW - 10))
    default = engine.databases["default"]
    token = canaries.Canary(canaries.scratch_of("docs", store("collection"), old, 5, None), canaries.pair_of(5)[0])
    for name in (old, young, "docs", "tenantry_probe_of_ours", token.place.physical, f"tzzzz_{old}"):
        engine.run(provision.make_shared(provision.SharedCollection(name=name, dim=4)))
    engine.run(canaries.sweep(store("collection"), NOW))
    assert set(default) == {young, "docs", "tenantry_probe_of_ours", f"tzzzz_{old}"}


def test_leftover_databases_are_swept_unless_young() -> None:
    engine = ToyMilvus()
    first, second, third, *_ = canaries.canary_databases()
    old, young = (canaries.scratch_name(when, b"wxyz") for when in (NOW - 1000, NOW - 10))
    engine.databases |= {first: {old: engine}, second: {young: engine}, third: {}, "acme": {}}  # type: ignore[dict-item]
    engine.run(canaries.sweep(store("database"), NOW))
    assert set(engine.databases) == {"default", second, "acme"}
    assert engine.run(canaries.free_pairs(store("database"), 0, 2)) == [1, 2]


def test_nobody_can_be_a_canary() -> None:
    names = [name for place in range(canaries.PAIRS) for name in canaries.pair_of(place)]
    assert len(set(names)) == 2 * canaries.PAIRS
    assert not any(re.match(TENANT_PATTERN, name) for name in names)


def every_type() -> pb.CollectionSchema:
    schema = pb.CollectionSchema()
    schema.fields.add(name="id", data_type=5, is_primary_key=True)
    for kind in (1, 2, 3, 4, 5, 10, 11, 21, 23, 24, 25):
        schema.fields.add(name=f"f{kind}", data_type=kind)
    for kind in (1, 4, 5, 11, 21):
        schema.fields.add(name=f"a{kind}", data_type=22, element_type=kind)
    for kind in (100, 101, 102, 103, 104, 105):
        schema.fields.add(name=f"v{kind}", data_type=kind).type_params.add(key="dim", value="16")
    return schema


def test_rows_of_every_type_can_be_told_apart() -> None:
    schema = every_type()
    marks = list(range(1, 40))
    made = columns(schema, "tenant_id", marks, marks)
    assert [column.field_name for column in made] == [field.name for field in schema.fields]
    rows = rows_of(made, "id")
    assert rows is not None
    assert list(rows) == marks
    for name in (field.name for field in schema.fields if field.name not in ("id", "f1", "a1")):
        assert len({dict(row)[name] for row in rows.values()}) == len(marks), name


def test_fields_that_no_row_can_be_made_for_are_left_out_of_the_scratch() -> None:
    schema = every_type()
    schema.fields.add(name="struct", data_type=200)
    schema.fields.add(name="of_vectors", data_type=22, element_type=101)
    copy = probe.scratch_schema(schema, "tenantry_probe_1_abcdabcd")
    assert [field.name for field in copy.fields] == [field.name for field in schema.fields][:-2]


def test_provisioning_says_what_it_made_and_which_limit_stands_in_the_way() -> None:
    engine = ToyMilvus()
    engine.run(provision.make_shared(provision.SharedCollection(name="docs", dim=4)))
    of_database = Need(database="tacme")
    of_partition = Need(collection="docs", partition="tacme")
    assert [engine.run(provision.provide(of_database)) for _ in range(2)] == ["database", ""]
    assert [engine.run(provision.provide(of_partition)) for _ in range(2)] == ["partition", ""]
    engine.databases |= {f"t{number}": {} for number in range(70)}
    with pytest.raises(provision.StoreFullError, match="maxDatabaseNum"):
        engine.run(provision.provide(Need(database="tglobex")))
    partitions = engine.databases["default"]["docs"].partitions
    partitions |= {f"t{number}": [] for number in range(70)}
    with pytest.raises(provision.StoreFullError, match=r"maxPartitionNum.*spread"):
        engine.run(provision.provide(Need(collection="docs", partition="tglobex")))


def test_a_partition_that_another_replica_made_meanwhile_is_there() -> None:
    engine = ToyMilvus()
    engine.run(provision.make_shared(provision.SharedCollection(name="docs", dim=4)))
    steps = provision.provide(Need(collection="docs", partition="tacme"))
    asked = next(steps)
    assert isinstance(asked, Send)
    answer = engine.call(asked)
    engine.databases["default"]["docs"].partitions["tacme"] = []
    made = steps.send(answer)
    assert isinstance(made, Send)
    assert made.method == "CreatePartition"

    def rest() -> Steps[str]:
        yield from ()
        step: Send | Pause = made
        while True:
            try:
                step = steps.send((yield step))
            except StopIteration as end:
                return str(end.value)

    assert engine.run(rest()) == ""
