"""Two tenants that nobody is, and the scratch collections in which they show what a store does.

Their names begin with `_`, which no tenant's may, and there are only a few of them: so what a proof that was cut off
left behind is known by its name. Collections are named `tenantry_probe_SECONDS_RANDOM`; what is older than any proof
takes is dropped by the next one, what is younger may be another replica's.
"""

import re

from google.protobuf.message import Message
from msgspec import Struct, structs

from tenantry.core.rules_stores import Collection, Store
from tenantry.core.vector import scope
from tenantry.core.vector.calls import StoreHead, StoreOf, StoreResponse
from tenantry.core.vector.grpc_frame import PREFIX_BYTES, write_message
from tenantry.core.vector.layout import Layout, Place
from tenantry.core.vector.milvus import SERVICE, milvus_call
from tenantry.core.vector.operator import (
    M,
    Send,
    Steps,
    collections,
    databases,
    drop_collection,
    drop_database,
    require_success,
)
from tenantry.core.vector.provision import provide

PAIRS = 16
STALE_SECONDS = 900.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024

PREFIX = "tenantry_probe_"
_SCRATCH = re.compile(r"tenantry_probe_([0-9a-f]{1,12})_[0-9a-f]{8}")
_HEADERS = ((":method", b"POST"), ("content-type", b"application/grpc"))


class Scratch(Struct, frozen=True, kw_only=True):
    """Where one proof takes place: a store as in the rules, a collection of this name, two tenants."""

    store_name: str
    store: Store
    collection: str
    pair: int

    @property
    def tenants(self) -> tuple[str, str]:
        """The names of A and B."""
        return pair_of(self.pair)


def scratch_name(now: float, nonce: bytes) -> str:
    """Return the name of a scratch collection made at `now` (Unix seconds); `nonce` are 4 random bytes."""
    return f"{PREFIX}{int(now):x}_{nonce[:4].hex()}"


def scratch_of(name: str, store: Store, collection: str, pair: int, shared: Collection | None) -> Scratch:
    """Return the scratch for a store; `shared` are the rules of the collection that is copied, if tenants share any."""
    rules = {} if shared is None else {collection: structs.replace(shared, spread=1)}
    return Scratch(store_name=name, store=structs.replace(store, collections=rules), collection=collection, pair=pair)


def pair_of(place: int) -> tuple[str, str]:
    """Return the names of the canaries of one of the pairs."""
    return f"_tenantry-probe-{place:02d}-a", f"_tenantry-probe-{place:02d}-b"


class Canary:
    """One of the two tenants: what it asks is rewritten as any tenant's request is, and so is what it is answered."""

    def __init__(self, scratch: Scratch, tenant: str) -> None:
        self.tenant = tenant
        self.collection = scratch.collection
        self._store_of = StoreOf(tenant=tenant, name=scratch.store_name, store=scratch.store)
        self.layout = Layout(self._store_of)
        self._provided = False

    @property
    def place(self) -> Place:
        """Where its rows are, in the engine's terms."""
        return self.layout.place(self.collection)

    def asks(self, method: str, request: Message, kind: type[M]) -> Steps[M]:
        """Send a plain client's request through the code that serves; return the answer as that client gets it.

        Raises StoreCallError, ForeignRowError and UnreadableResponseError.
        """
        head = StoreHead(method="POST", path=SERVICE + method, headers=_HEADERS)
        call = milvus_call(self._store_of, head, MAX_ANSWER_BYTES)
        if call is None:  # the path is Milvus's
            raise AssertionError(method)
        sent = call.request(write_message(request.SerializeToString()))
        if sent.need is not None and not self._provided:
            yield from provide(sent.need)
            self._provided = True
        answer = yield Send(
            method=method, message=(sent.body or b"")[PREFIX_BYTES:], database=dict(sent.headers).get("dbname", "")
        )
        verified = call.response(StoreResponse(status=200, headers=(), body=write_message(answer)))
        return require_success(method, kind.FromString(verified.body[PREFIX_BYTES:]))


def clean(scratch: Scratch) -> Steps[None]:
    """Drop everything that a proof made."""
    for tenant in scratch.tenants:
        layout = Layout(StoreOf(tenant=tenant, name=scratch.store_name, store=scratch.store))
        yield from drop_collection(layout.place(scratch.collection).physical, layout.database)
        if layout.database:
            yield from drop_database(layout.database)


def sweep(store: Store, now: float) -> Steps[None]:
    """Drop what earlier proofs left behind."""
    if store.isolation == "database":
        known = yield from databases()
        for database in canary_databases():
            if database in known:
                names = yield from collections(database)
                if all(_is_stale(name, now) for name in names):
                    yield from drop_database(database)
        return
    tokens = {scope.token_of(tenant) for place in range(PAIRS) for tenant in pair_of(place)}
    for physical in (yield from collections()):
        token, _, own = physical.partition("_")
        if _is_stale(own if token in tokens else physical, now):
            yield from drop_collection(physical)


def free_pairs(store: Store, first: int, count: int) -> Steps[list[int]]:
    """Return `count` pairs, from `first` on, whose databases nobody uses; any of them where there are not so many."""
    places = [number % PAIRS for number in range(first, first + PAIRS)]
    if store.isolation == "database":
        known = yield from databases()
        places.sort(key=lambda place: any(scope.database_of(tenant) in known for tenant in pair_of(place)))
    return places[:count]


def canary_databases() -> list[str]:
    """Return the databases that proofs may make."""
    return [scope.database_of(tenant) for place in range(PAIRS) for tenant in pair_of(place)]


def _is_stale(collection: str, now: float) -> bool:
    found = _SCRATCH.fullmatch(collection)
    return found is not None and now - int(found[1], 16) > STALE_SECONDS
