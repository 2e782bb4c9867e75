"""One request to a vector store, as the session sees it, whichever store and protocol it speaks.

A protocol (Milvus over gRPC, Milvus REST, Pinecone over REST or gRPC) turns method, path and headers into a `Call`, or
refuses. The session hands it the whole request body, passes on what it returns, hands it the whole response, and lets
pass what it returns then. A call keeps what it needs of the request to check the response, and is used once.
"""

from typing import Protocol

from msgspec import Struct

from tenantry.core.errors import TenantryError
from tenantry.core.events import Header
from tenantry.core.rules_stores import Store
from tenantry.core.vector.column import Column


class StoreOf(Struct, frozen=True, kw_only=True):
    """Whose request it is, and to which store of the rules."""

    tenant: str
    name: str
    store: Store


class StoreHead(Struct, frozen=True, kw_only=True):
    """The head of a request: method, path with its query as the client sent them, and all headers."""

    method: str
    path: str
    headers: tuple[Header, ...]

    def all(self, name: str) -> list[bytes]:
        """Return every value of a header."""
        return [value for header, value in self.headers if header == name]


class Need(Struct, frozen=True, kw_only=True):
    """What must hold in a store before a request is passed on.

    The tenant's database, or its partition, is there: that is made, and remembered. The columns of a write are what the
    collection's schema says: that is asked each time, as a collection can be made anew with another schema.
    """

    database: str = ""
    collection: str = ""
    partition: str = ""
    columns: tuple[Column, ...] = ()

    @property
    def place(self) -> "Need | None":
        """The part that is made, None if there is none."""
        if self.database:
            return Need(database=self.database)
        return Need(collection=self.collection, partition=self.partition) if self.partition else None


class StoreRequest(Struct, frozen=True, kw_only=True):
    """What goes to the store. `path` None: as it came. `headers` are set besides those that every request has.

    A request without a body stays without: `body` is None. `need` is made before, on a tenant's first use.
    """

    body: bytes | None
    path: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    need: Need | None = None


class StoreResponse(Struct, frozen=True, kw_only=True):
    """What the store answered: HTTP status, headers, whole body (not compressed: we do not ask for that)."""

    status: int
    headers: tuple[Header, ...]
    body: bytes


class Verified(Struct, frozen=True, kw_only=True):
    """What the client gets, and how many rows were looked at. `headers` are set besides the content's length.

    `failed`: the store did not do what was asked.
    """

    body: bytes
    rows: int = 0
    failed: bool = False
    headers: tuple[tuple[str, str], ...] = ()


class Call(Protocol):
    """One request to a store."""

    @property
    def operation(self) -> str:
        """The method in the store's own terms (`Search`, `query`), one of a fixed few: a metric's label."""

    def request(self, body: bytes) -> StoreRequest:
        """Return the request in the tenant's own scope; raise RequestRefusedError for what was not understood whole.

        Called once, with `b""` for a request without a body.
        """

    def response(self, response: StoreResponse) -> Verified:
        """Return the response with each row verified and without what the client did not write.

        Raises ForeignRowError for a row of another tenant, UnreadableResponseError for what was not understood whole.
        """


class ForeignRowError(TenantryError):
    """A store answered with a row that is not the tenant's: both locks before it failed. Withheld, and an alarm."""


class UnreadableResponseError(TenantryError):
    """A store answered what cannot be verified. Withheld."""
