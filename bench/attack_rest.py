"""The known attacks on Milvus's REST v2, put to the code that rewrites: no engine that can be installed speaks v2.

What would go to the store has to hold the guard in front, name the tenant's own collection, and nothing of the other
tenant's. That is the contract which the gRPC cases show to be enough on real engines.
"""

import gzip
import json
from typing import Any

from tenantry.core.errors import RequestRefusedError
from tenantry.core.rules_stores import Collection, Store
from tenantry.core.vector import scope
from tenantry.core.vector.calls import StoreHead, StoreOf, StoreRequest
from tenantry.core.vector.milvus_rest import milvus_rest_call

from bench.attack_seen import Seen, load
from bench.attack_store import NOTES, OURS, THEIRS

LAYOUTS = ("database", "collection", "partition", "keyprefix")
GUARD = f'tenant_id == "{OURS}"'
EVERY = '"collectionName":"notes",'


def run() -> Seen:
    """Put every case to the rewriting of every layout."""
    seen = Seen()
    for case in load("milvus.rest"):
        seen.cases += 1
        for layout in LAYOUTS:
            name = f"{case['id']}, {layout}"
            try:
                sent = _sent(case, layout)
            except RequestRefusedError as error:
                seen.denied += 1
                if case["expect"] == "rewrite":
                    seen.deviations[name] = f"refused: {error.code}"
                continue
            if sent is None:
                seen.denied += 1  # not a path that Envoy routes to a store
            elif fault := _fault(sent, layout):
                seen.leaks.append(f"{name}: {fault}")
            elif case["expect"] == "deny":
                seen.deviations[name] = "passed on, in the tenant's scope"
    return seen


def _store(layout: Any) -> StoreOf:
    shared = {NOTES: Collection(primary_field="id" if layout == "keyprefix" else None)}
    collections = {} if layout in ("database", "collection") else shared
    store = Store(kind="milvus", endpoints=("127.0.0.1:1",), isolation=layout, collections=collections)
    return StoreOf(tenant=OURS, name="docs", store=store)


def _sent(case: dict[str, Any], layout: str) -> StoreRequest | None:
    method, _, path = case["request"]["http"].partition(" ")
    path = path.removeprefix(":9091")
    headers = [("content-type", b"application/json")]
    text = case["request"]["body"]
    if text == "gzip body":
        headers.append(("content-encoding", b"gzip"))
        body = gzip.compress(b'{"collectionName":"notes","filter":"price >= 0"}', mtime=0)
    else:
        body = _with_the_rest(text, path, layout).encode()
    head = StoreHead(method=method, path=path, headers=tuple(headers))
    call = milvus_rest_call(_store(layout), head)
    return None if call is None else call.request(body)


def _with_the_rest(text: str, path: str, layout: str) -> str:
    """Return the body with what the path wants besides, so that it is the attack that is judged."""
    if "/entities/" not in path:
        return text
    if path.endswith("/search"):
        return text.replace("{", '{"collectionName":"notes","data":[[1.0,0,0,0]],"filter":"price >= {t}",', 1)
    if layout == "keyprefix" and path.endswith("/get"):
        text = text.replace("105", '"k105"')
    return text.replace("{", "{" + EVERY, 1).replace(",}", "}")


def _fault(sent: StoreRequest, layout: str) -> str:
    body = sent.body or b""
    document = json.loads(body)
    own = f"{scope.token_of(OURS)}_{NOTES}" if layout == "collection" else NOTES
    if THEIRS.encode() in body or scope.token_of(THEIRS).encode() in body:
        return "it names the other tenant"
    if document.get("collectionName") != own:
        return "another collection"
    if layout == "database" and document.get("dbName") != scope.database_of(OURS):
        return "another database"
    guarded = document.get("filter", "")
    if "id" in document and not guarded:
        # A look-up by keys has no filter: it stays in the tenant's own place, and its rows are verified.
        return "" if _in_own_place(document, layout) and "tenant_id" in document["outputFields"] else "no scope"
    return "" if guarded == GUARD or guarded.startswith(f"({GUARD}) and (") else "no guard in front"


def _in_own_place(document: dict[str, Any], layout: str) -> bool:
    return layout != "partition" or document.get("partitionNames") == [scope.partition_of(OURS)]
