"""Whatever two tenants write, their namespaces and rows do not meet."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tenantry.core.errors import RequestRefusedError
from tenantry.core.vector import pinecone_filter
from tenantry.core.vector._pb import pinecone_pb2 as pb
from tenantry.core.vector.pinecone_grpc import packed, plain
from tenantry.core.vector.pinecone_query import Parameters, written
from tenantry.core.vector.pinecone_scope import MAX_NAMESPACE_CHARACTERS, Scope
from tenantry.core.vector.strictjson import dumps, loads
from tenantry_standin.pinecone_index import wanted
from tenantry_testing.pinecone import Grpc, Rest

tenants = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
names = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
fields = st.sampled_from(["a", "b", "tenant", "tenant_id2", "owner"])
scalars = st.sampled_from(["x", "acme", "globex", 0, 1, 2.5, True, False])
numbers = st.sampled_from([0, 1, 2.5])
conditions = scalars | st.dictionaries(
    st.sampled_from(["$eq", "$ne"]), scalars, min_size=1
) | st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), numbers, min_size=1) | st.dictionaries(
    st.sampled_from(["$in", "$nin"]), st.lists(scalars, max_size=3), min_size=1
) | st.fixed_dictionaries({"$exists": st.booleans()})  # fmt: skip
filters = st.recursive(
    st.dictionaries(fields, conditions, min_size=1, max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1
    ),
    max_leaves=8,
)
rows = st.dictionaries(fields, scalars | st.lists(st.sampled_from(["x", "acme", "globex"]), max_size=2), max_size=4)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["acme", "globex", "$or", "tenant_id"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "tenant_id", "Tenant_Id", "$and", "$or", "$eq", "$ne", "$in", "$exists", "$not"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


@given(tenants, names, tenants, names)
def test_two_names_are_one_namespace_only_for_one_tenant_and_one_name(one: str, a: str, other: str, b: str) -> None:
    first, second = (Scope(tenant=tenant, field="tenant_id") for tenant in (one, other))
    default = {"", "__default__"}
    same = one == other and (a == b or {a, b} <= default)
    assert (first.namespace(a) == second.namespace(b)) == same
    assert first.own(first.namespace(a)) == ("" if a in default else a)
    if one != other:
        assert second.own(first.namespace(a)) is None


@given(names, names)
def test_a_name_of_a_namespace_cannot_reach_out_of_the_tenants(a: str, b: str) -> None:
    """Not even one that is written like another tenant's, or like the end of one's own."""
    acme, globex = (Scope(tenant=tenant, field="tenant_id") for tenant in ("acme", "globex"))
    evil = f"{globex.namespace(a)}{b}"
    assume(len(evil) <= MAX_NAMESPACE_CHARACTERS)
    assert acme.namespace(evil).startswith(f"{acme.namespace('')}.")
    assert globex.own(acme.namespace(evil)) is None


@given(filters, rows, st.sampled_from(["acme", "globex", None]))
def test_a_guarded_filter_matches_the_tenants_rows_that_the_clients_filter_matches_and_no_other(
    client: dict[str, Any], row: dict[str, Any], owner: str | None
) -> None:
    """The stand-in reads filters by itself; both must agree on every row."""
    guarded = pinecone_filter.guarded(client, field="tenant_id", tenant="acme")
    stored = row if owner is None else {**row, "tenant_id": owner}
    assert wanted(guarded)(stored) == (owner == "acme" and wanted(client)(row))


@given(anything, rows)
def test_no_filter_at_all_matches_a_foreign_row(client: object, row: dict[str, Any]) -> None:
    for call in (_rest, _grpc):
        try:
            sent = call(client)
        except RequestRefusedError:
            continue
        assert not wanted(sent)({**row, "tenant_id": "globex"})
        assert not wanted(sent)(row)


def _rest(client: object) -> Any:
    return Rest("POST /query", {"topK": 1, "id": "a", "filter": client}).sent["filter"]


def _grpc(client: object) -> Any:
    if not isinstance(client, dict) or "null" in json.dumps(client):
        return {"tenant_id": "acme"}
    request = pb.QueryRequest(top_k=1, filter=packed(client))
    return plain(Grpc("Query", request, pb.QueryResponse).sent(pb.QueryRequest).filter)


@given(filters)
def test_a_filter_means_the_same_over_grpc(client: dict[str, Any]) -> None:
    assert plain(packed(client)) == client


@given(
    st.dictionaries(
        st.sampled_from(["ids", "prefix", "namespace"]), st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    )
)
def test_a_query_string_is_read_as_it_was_written(values: dict[str, str]) -> None:
    parameters = Parameters(written(values.items()))
    assert {name: parameters.one(name) for name in values} == values
    parameters.end()


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | keys,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(keys, values, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_any_object_is_read_as_it_was_written(value: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert loads(body) == value
    assert json.loads(dumps(loads(body))) == value


@st.composite
def doubled(draw: st.DrawFn) -> bytes:
    """An object somewhere in which a key stands twice, perhaps once with an escape."""
    key, first, second = draw(keys), draw(values), draw(values)
    spelled = json.dumps(key) if draw(st.booleans()) else '"' + "".join(f"\\u{ord(c):04x}" for c in key) + '"'
    assume(all(ord(c) < 0x10000 for c in key))
    body = f"{{{json.dumps(key)}:{json.dumps(first)},{spelled}:{json.dumps(second)}}}"
    for around in draw(
        st.lists(st.sampled_from(['{"k":%s}', "[%s]", '[1,"{",%s]', '{"\\\\":"\\"","x":%s}']), max_size=5)
    ):
        body = around.replace("%s", body)
    return f'{{"top":{body}}}'.encode()


@given(doubled())
def test_a_key_that_stands_twice_anywhere_is_found(body: bytes) -> None:
    with pytest.raises(RequestRefusedError):
        loads(body)
    with pytest.raises(RequestRefusedError):
        loads(body, raw=("top",))
