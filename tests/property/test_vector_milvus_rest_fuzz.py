"""Any body on any path: refused, or sent in the tenant's scope. Any answer: withheld, or the tenant's rows alone."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.errors import RequestRefusedError
from tenantry.core.vector import scope
from tenantry.core.vector.calls import ForeignRowError, StoreResponse, UnreadableResponseError
from tenantry.core.vector.milvus_rest import OPERATIONS
from tenantry.core.vector.milvus_rest_schemas import CREATE
from tenantry_testing.milvus_rest import EXAMPLES, OWN, call

READS = ("entities/query", "entities/get", "entities/search", "entities/hybrid_search", "entities/advanced_search")
GUARD = 'tenant_id == "acme"'
TOKEN, OTHER = scope.token_of("acme"), scope.token_of("globex")

names = st.sampled_from(
    ["notes", "tenant_id", "Tenant_id", "doc", "id", "*", "count(*)", "default", TOKEN, OTHER, "acme", "globex", "a"]
)
filters = st.sampled_from(["", "a > 1", "a > 1) or (a > 1", "tenant_id != ''", "a == {x}", 'doc in ["k"]', "{", "\x00"])
scalars = st.none() | st.booleans() | st.integers(-3, 20_000) | st.floats(allow_nan=False, width=32) | names | filters
keys = st.sampled_from(sorted({name for each in OPERATIONS.values() for name in each.members} | set(CREATE))) | names
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
changes = st.dictionaries(keys, values, max_size=3)


@given(
    path=st.sampled_from(sorted(OPERATIONS)),
    layout=st.sampled_from(["collection", "partition", "keyprefix"]),
    body=changes,
)
def test_requests(path: str, layout: str, body: dict[str, Any]) -> None:
    policy = OPERATIONS[path].policy
    if policy in ("own", "load") and layout not in OWN:
        return
    try:
        request = call(path, layout).request(json.dumps(EXAMPLES[path] | body).encode())
    except RequestRefusedError:
        return
    sent = json.loads(request.body or b"")
    assert sent["dbName"] == "default"
    if path != "collections/list":
        # `has` and `describe` ask for a name of the tenant's own where a shared collection is not there.
        assert sent["collectionName"].startswith(f"{TOKEN}_") or (
            sent["collectionName"] == "notes" and layout not in OWN
        )
    if policy == "inject" and "id" not in sent:
        searched = sent.get("search", [sent])
        assert all(part["filter"].startswith('(tenant_id == "acme")') or part["filter"] == GUARD for part in searched)
    if policy in ("inject", "stamp") and layout == "partition":
        assert sent.get("partitionNames", [sent.get("partitionName")]) == [TOKEN]
    for row in sent["data"] if policy == "stamp" else []:
        assert [row[name] for name in row if name.casefold() == "tenant_id"] == ["acme"]
        assert layout != "keyprefix" or row["doc"].startswith(f"{TOKEN}:")
    if path in READS:
        assert sent["outputFields"] == ["count(*)"] or sent["outputFields"].count("tenant_id") == 1
    if path == "collections/create":
        assert [field["fieldName"] for field in sent["schema"]["fields"]].count("tenant_id") == 1


rows = st.dictionaries(
    st.sampled_from(["tenant_id", "Tenant_id", "doc", "id", "distance", "a"]),
    st.sampled_from(["acme", "globex", f"{TOKEN}:k", f"{OTHER}:k", None]) | st.integers(),
    max_size=4,
)
answers = st.fixed_dictionaries(
    {"code": st.sampled_from([0, 200, 1100])},
    optional={
        "data": st.lists(rows | st.lists(rows, max_size=2), max_size=4) | values,
        "message": names,
        "cost": scalars,
    },
)


@given(path=st.sampled_from(READS), layout=st.sampled_from(["collection", "partition", "keyprefix"]), answer=answers)
def test_answers(path: str, layout: str, answer: dict[str, Any]) -> None:
    asking = call(path, layout)
    asking.request(json.dumps(EXAMPLES[path]).encode())
    try:
        found = asking.response(StoreResponse(status=200, headers=(), body=json.dumps(answer).encode()))
    except (ForeignRowError, UnreadableResponseError):
        return
    shown = json.loads(found.body)
    assert shown.keys() <= {"code", "data", "message", "cost", "topks", "recalls"}
    if answer["code"] not in (0, 200):
        assert "data" not in shown
        return
    given_rows, shown_rows = (flat(each.get("data", [])) for each in (answer, shown))
    assert found.rows == len(given_rows) == len(shown_rows)
    assert all(row["tenant_id"] == "acme" for row in given_rows)
    assert all("tenant_id" not in row for row in shown_rows)
    if layout == "keyprefix":
        assert f"{OTHER}:k" not in [row.get("doc", row.get("id")) for row in shown_rows]


def flat(data: list[Any]) -> list[dict[str, Any]]:
    """The rows of one list, or of a list for each query vector."""
    return [row for each in data for row in (each if isinstance(each, list) else [each])]
