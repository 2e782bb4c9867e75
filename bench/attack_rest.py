"""The known attacks on Milvus's REST v2, put to the code that rewrites requests: no engine to install speaks it."""

import gzip
from typing import Any

from msgspec import Struct
from tenantry.core.errors import RequestRefusedError
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Limits, Rules, Store, Tier
from tenantry.core.vector.calls import StoreHead
from tenantry.core.vector.stores import open_call

from bench.attack_cases import load
from bench.attack_store import OURS


class Seen(Struct, kw_only=True):
    """What became of the cases. `leaks` are those that were let through without our scope around them."""

    cases: int = 0
    denied: int = 0
    leaks: list[str] = []


def run() -> Seen:
    """Try every case."""
    store = Store(kind="milvus", endpoints=("127.0.0.1:1",), isolation="collection")
    book = RuleBook(Rules(version=1, models={}, tiers={"gold": Tier()}, stores={"docs": store}, limits=Limits()))
    seen = Seen()
    for case in load("milvus.rest"):
        seen.cases += 1
        try:
            sent = _rewritten(book, case["request"])
        except RequestRefusedError:
            seen.denied += 1
            continue
        # None: not a path of any store, which Envoy answers with 404.
        if sent is not None and f'tenant_id == \\"{OURS}\\"'.encode() not in sent:
            seen.leaks.append(case["id"])
    return seen


def _rewritten(book: RuleBook, request: dict[str, Any]) -> bytes | None:
    method, _, path = request["http"].partition(" ")
    body: bytes = gzip.compress(b"{}") if request["body"] == "gzip body" else request["body"].encode()
    headers = [(":method", method.encode()), (":path", path.encode()), ("content-type", b"application/json")]
    opened = open_call(book, OURS, "store", StoreHead(method=method, path=path, headers=tuple(headers)))
    if opened is None:
        return None
    return opened[1].request(body).body
