"""REST calls of the tenant acme to a Milvus in each layout: the collection `notes`, with the primary key `doc`."""

import json
from typing import Any

from tenantry.core.rules_stores import Collection, Store
from tenantry.core.vector.calls import StoreHead, StoreOf, StoreRequest
from tenantry.core.vector.milvus_rest import OPERATIONS, PREFIX, RestCall, milvus_rest_call

JSON_HEADERS = (("content-type", b"application/json"),)
OWN = ("database", "collection")

_BESIDE_THE_COLLECTION: dict[str, dict[str, Any]] = {
    "entities/get": {"id": "k"},
    "entities/search": {"data": [[1.0]]},
    "entities/hybrid_search": {"search": [{"data": [[1.0]]}]},
    "entities/advanced_search": {"search": [{"data": [[1.0]]}]},
    "entities/delete": {"filter": "a == 1"},
    "entities/insert": {"data": [{"doc": "k"}]},
    "entities/upsert": {"data": [{"doc": "k"}]},
    "collections/create": {"dimension": 4},
    "indexes/describe": {"indexName": "i"},
    "indexes/drop": {"indexName": "i"},
    "indexes/create": {"indexParams": [{"fieldName": "v"}]},
    "partitions/has": {"partitionName": "p"},
    "partitions/get_stats": {"partitionName": "p"},
    "partitions/create": {"partitionName": "p"},
    "partitions/drop": {"partitionName": "p"},
    "partitions/load": {"partitionNames": ["p"]},
    "partitions/release": {"partitionNames": ["p"]},
}
EXAMPLES: dict[str, dict[str, Any]] = {
    path: ({} if path == "collections/list" else {"collectionName": "notes"}) | _BESIDE_THE_COLLECTION.get(path, {})
    for path in OPERATIONS
}
"""The least that each path wants."""


def store_of(
    layout: Any, *, tenant: str = "acme", tenant_field: str = "tenant_id", load_and_flush: bool = False
) -> StoreOf:
    """A store of this layout, and whose request it is."""
    notes = Collection(tenant_field=tenant_field, primary_field="doc" if layout == "keyprefix" else None)
    return StoreOf(
        tenant=tenant,
        name="docs",
        store=Store(
            kind="milvus",
            endpoints=("127.0.0.1:19530",),
            isolation=layout,
            tenant_field=tenant_field,
            collections={} if layout in OWN else {"notes": notes},
            load_and_flush=load_and_flush,
        ),
    )


def head(
    path: str, *, method: str = "POST", headers: tuple[tuple[str, bytes], ...] = JSON_HEADERS, whole: bool = False
) -> StoreHead:
    """The head of a request; `whole`: the path is not one under the prefix."""
    return StoreHead(method=method, path=path if whole else PREFIX + path, headers=headers)


def call(path: str, layout: str) -> RestCall:
    """The call behind a good head."""
    found = milvus_rest_call(store_of(layout), head(path))
    assert found is not None
    return found


def sent(path: str, layout: str, body: dict[str, Any]) -> StoreRequest:
    """What the store gets of a body."""
    return call(path, layout).request(json.dumps(body).encode())
