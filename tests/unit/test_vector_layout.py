"""Where a tenant's rows are: names of databases, collections, partitions and keys, there and back."""

import pytest
from tenantry.core.errors import RequestRefusedError
from tenantry.core.rules_stores import Collection, Store
from tenantry.core.vector import scope
from tenantry.core.vector.calls import Need, StoreOf
from tenantry.core.vector.layout import Layout
from tenantry_testing.milvus import (
    COLLECTION,
    DATABASE,
    KEYPREFIX,
    LAYOUTS,
    OTHER,
    OTHER_TOKEN,
    PARTITION,
    TENANT,
    TOKEN,
)

SPREAD = Store(
    kind="milvus", endpoints=("127.0.0.1:19530",), isolation="partition", collections={"notes": Collection(spread=8)}
)


def layout(store: Store, tenant: str = TENANT) -> Layout:
    return Layout(StoreOf(tenant=tenant, name="docs", store=store))


def test_the_token_is_the_same_for_ever() -> None:
    """Rows are found by it: another token would lose them all."""
    assert scope.token_of("acme") == "te6s5fsqaknzbz2y2yqru5emzpy"
    assert scope.token_of("a.b") == "t42zwitb7fcobywjmzeko2i2hjo"


@pytest.mark.parametrize(
    ("store", "database", "physical", "partition", "prefix"),
    [
        (DATABASE, TOKEN, "notes", None, ""),
        (COLLECTION, "", f"{TOKEN}_notes", None, ""),
        (PARTITION, "", "notes", TOKEN, ""),
        (KEYPREFIX, "", "notes", None, f"{TOKEN}:"),
    ],
    ids=LAYOUTS,
)
def test_the_table(store: Store, database: str, physical: str, partition: str | None, prefix: str) -> None:
    made = layout(store)
    place = made.place("notes")
    assert (made.database, place.physical, made.partition, made.key_prefix) == (database, physical, partition, prefix)
    assert made.name_of(physical) == "notes"
    assert made.own is (store in (DATABASE, COLLECTION))
    assert place.primary_field == ("pk" if store is KEYPREFIX else None)


def test_what_a_tenant_needs() -> None:
    for store, need in (
        (DATABASE, Need(database=TOKEN)),
        (COLLECTION, None),
        (PARTITION, Need(collection="notes", partition=TOKEN)),
        (KEYPREFIX, None),
    ):
        made = layout(store)
        assert made.need(made.place("notes")) == need
    assert layout(PARTITION).need(None) is None


def test_names_of_others_are_not_shown() -> None:
    assert layout(COLLECTION).name_of(f"{OTHER_TOKEN}_notes") is None
    assert layout(COLLECTION).name_of(TOKEN) is None
    assert layout(PARTITION).name_of("secret") is None
    assert layout(PARTITION).name_of(f"{TOKEN}_notes") is None


def test_a_spread_collection_is_shown_under_one_name() -> None:
    names = scope.spread_names("notes", 8)
    used = set()
    for tenant in (f"tenant-{number}" for number in range(100)):
        made = layout(SPREAD, tenant)
        physical = made.place("notes").physical
        used.add(physical)
        assert [made.name_of(name) for name in names if made.name_of(name)] == ["notes"]
        assert made.name_of(physical) == "notes"
    assert used == set(names)


def test_ids_of_collections_follow_from_their_names() -> None:
    made = layout(PARTITION)
    assert made.public_id("notes") == layout(PARTITION).public_id("notes")
    assert 0 < made.public_id("notes") < 2**63
    assert len({made.public_id("notes"), made.public_id("files"), layout(PARTITION, OTHER).public_id("notes")}) == 3


@pytest.mark.parametrize("store", LAYOUTS.values(), ids=LAYOUTS)
def test_another_database_is_refused(store: Store) -> None:
    for name in ("", "default"):
        layout(store).check_database(name)
    for name in ("other", "default ", "DEFAULT", TOKEN):
        with pytest.raises(RequestRefusedError):
            layout(store).check_database(name)


def test_partitions() -> None:
    assert layout(PARTITION).partitions([]) == layout(PARTITION).partitions([OTHER_TOKEN, "x"]) == [TOKEN]
    assert layout(KEYPREFIX).partitions(["x"]) == []
    assert layout(COLLECTION).partitions(["x", "_default"]) == ["x", "_default"]
    assert layout(PARTITION).partition_to_write("x") == TOKEN
    assert layout(KEYPREFIX).partition_to_write("x") == ""
    assert layout(COLLECTION).partition_to_write("x") == "x"
    assert layout(COLLECTION).partition_to_write("") == ""
    for name in ("", "a-b", "9", "a" * 256, ".*"):
        with pytest.raises(RequestRefusedError):
            layout(COLLECTION).partitions([name])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"no collection {TOKEN}_notes", "no collection notes"),
        (f"in database {TOKEN}", "in database default"),
        (f"key {TOKEN}:a twice", "key a twice"),
        (f"[{TOKEN}][{TOKEN}_a:{TOKEN}:b]", "[default][a:b]"),
        ("nothing of ours", "nothing of ours"),
        ("", ""),
    ],
)
def test_errors_are_shown_in_the_clients_names(text: str, shown: str) -> None:
    assert layout(DATABASE).shown(text) == shown
    assert TOKEN not in shown
