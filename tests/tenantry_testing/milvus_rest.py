"""REST calls of the tenant acme to a Milvus in each layout: the collection `notes`, with the primary key `doc`."""

import json
from typing import Any

from tenantry.core.rules import Collection, Store
from tenantry.core.vector.calls import StoreHead, StoreOf, StoreRequest
from tenantry.core.vector.milvus_rest import PREFIX, RestCall, milvus_rest_call

JSON_HEADERS = (("content-type", b"application/json"),)
OWN = ("database", "collection")


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
