"""Which store and protocol a request is for."""

from collections.abc import Callable

from tenantry.core.rulebook import RuleBook
from tenantry.core.vector import milvus, milvus_rest, pinecone, pinecone_grpc, pinecone_records, pinecone_rest
from tenantry.core.vector.calls import Call, StoreHead, StoreOf

Opener = Callable[[StoreOf, StoreHead, int], Call | None]

PROTOCOLS: tuple[tuple[str, Opener], ...] = (
    ("milvus", milvus.milvus_call),
    ("milvus", milvus_rest.milvus_rest_call),
    ("pinecone", pinecone.pinecone_call),
)
"""The kind of store of each protocol, and what tells a request of it from others by its path."""

OPERATIONS = frozenset(
    {
        *milvus.METHODS,
        *milvus_rest.OPERATIONS,
        *pinecone_grpc.METHODS,
        *(route.operation for routes in (pinecone_rest.ROUTES, pinecone_records.RECORDS, pinecone_records.DOCUMENTS)
          for route in routes.values()),
    }
)  # fmt: skip
"""Every operation that a call can have: labels of metrics are bounded by it."""


def open_call(book: RuleBook, tenant: str, authority: str, head: StoreHead) -> tuple[StoreOf, Call] | None:
    """Return the call that a request makes, and at which store; None when it is not for a store of the rules.

    Raises RequestRefusedError for what a store of the rules would know and tenants may not do.
    """
    for kind, opener in PROTOCOLS:
        found = book.store(kind, authority)
        if found is None:
            continue
        name, store = found
        store_of = StoreOf(tenant=tenant, name=name, store=store)
        call = opener(store_of, head, book.rules.limits.max_body_bytes)
        if call is not None:
            return store_of, call
    return None
