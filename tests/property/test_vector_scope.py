"""No two tenants meet: names in a store are injective in tenant and name, and none reaches into another's."""

import re

from hypothesis import assume, given
from hypothesis import strategies as st
from tenantry.core.vector import scope

WORDS = (
    "acme",
    "acme_",
    "acme.a",
    "acme-a",
    "a",
    "A",
    "",
    "_",
    ".",
    ":",
    "t",
    "notes",
    "notes__1",
    "\0",
    "ä",
    "default",
)
tenants = st.sampled_from(WORDS) | st.text(max_size=12) | st.from_regex(r"[a-z0-9._-]{1,63}", fullmatch=True)
near = tenants.flatmap(lambda name: st.tuples(st.just(name), st.sampled_from([name + each for each in WORDS])))
two = (near | st.tuples(tenants, tenants)).filter(lambda pair: pair[0] != pair[1])
names = st.sampled_from(WORDS) | st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,40}", fullmatch=True) | st.text(max_size=12)
MILVUS_NAME = re.compile(r"t[a-z2-7]{26}")


def token_first(names: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Names that begin as another tenant's would."""
    return st.builds(lambda tenant, name: scope.token_of(tenant) + name, tenants, names) | names


tricky = token_first(names)


@given(two)
def test_tokens_differ_and_none_begins_another(pair: tuple[str, str]) -> None:
    one, other = map(scope.token_of, pair)
    assert one != other
    assert not one.startswith(other)
    assert MILVUS_NAME.fullmatch(one)


@given(two)
def test_databases_and_partitions(pair: tuple[str, str]) -> None:
    assert scope.database_of(pair[0]) != scope.database_of(pair[1])
    assert scope.partition_of(pair[0]) != scope.partition_of(pair[1])


@given(two, tricky, tricky)
def test_collections(pair: tuple[str, str], one: str, other: str) -> None:
    mine, theirs = scope.collection_of(pair[0], one), scope.collection_of(pair[1], other)
    assert mine != theirs
    assert scope.own_collection(pair[0], mine) == one
    assert scope.own_collection(pair[0], theirs) is None


@given(tenants, tricky, tricky)
def test_collections_of_one_tenant(tenant: str, one: str, other: str) -> None:
    assume(one != other)
    assert scope.collection_of(tenant, one) != scope.collection_of(tenant, other)
    assert scope.namespace_of(tenant, one) != scope.namespace_of(tenant, other)


@given(two, tricky, tricky)
def test_namespaces(pair: tuple[str, str], one: str, other: str) -> None:
    mine, theirs = scope.namespace_of(pair[0], one), scope.namespace_of(pair[1], other)
    assert mine != theirs
    assert scope.own_namespace(pair[0], mine) == one
    assert scope.own_namespace(pair[0], theirs) is None


@given(two, tricky, tricky)
def test_keys(pair: tuple[str, str], one: str, other: str) -> None:
    mine, theirs = scope.key_prefix_of(pair[0]), scope.key_prefix_of(pair[1])
    assert mine + one != theirs + other
    assert not (theirs + other).startswith(mine)


@given(tenants, st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(1, 64))
def test_a_tenant_has_one_of_the_spread_collections(tenant: str, name: str, spread: int) -> None:
    place = scope.spread_of(tenant, name, spread)
    assert scope.spread_names(name, spread).count(place) == 1
    assert place == scope.spread_of(tenant, name, spread)


@given(st.text(max_size=40), tenants)
def test_nothing_else_is_a_tenants(physical: str, tenant: str) -> None:
    found = scope.own_collection(tenant, physical)
    assert found is None or scope.collection_of(tenant, found) == physical
    space = scope.own_namespace(tenant, physical)
    assert space is None or scope.namespace_of(tenant, space) == physical
