"""A tenant's part of a Pinecone index, whichever protocol a request speaks.

Three locks, each of which holds by itself:

    namespace   what the client calls NAME is the namespace TOKEN.NAME; no request names another
    metadata    every row is written with the tenant field, and every filter asks for it
    responses   every row that comes back is looked at, and withheld whole if it is not stamped as the tenant's

A row without the tenant field counts as foreign. It can only have been written around tenantry, into a namespace
that nobody else should know; whose it is, nobody can say.
"""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from tenantry.core.errors import BadRequestError
from tenantry.core.vector import pinecone_filter
from tenantry.core.vector.calls import ForeignRowError, StoreHead, StoreOf
from tenantry.core.vector.pinecone_filter import TENANT_FIELD_REFUSED, resembles
from tenantry.core.vector.scope import namespace_of, own_namespace

DEFAULT_NAMESPACE = "__default__"
"""Pinecone's other name for the namespace "", the one of clients that name none."""

MAX_NAMESPACE_CHARACTERS = 480
"""Pinecone takes 512, of which the tenant's token and a dot are 28."""

MAX_ID_CHARACTERS = 512
MAX_IDS = 1_000
MAX_ROWS = 1_000
"""Vectors, records or documents in a request, as Pinecone has it."""

MAX_TOP_K = 10_000
MAX_TOKEN_CHARACTERS = 4_096
"""Of a pagination token. It is Pinecone's own and not looked into: the namespace is forced beside it."""

_printable = re.compile(r"[ -~]*")
_api_version = re.compile(rb"[0-9]{4}-[0-9]{2}|unstable")


class Scope(Struct, frozen=True, kw_only=True):
    """Whose rows, and the field that says so."""

    tenant: str
    field: str

    def namespace(self, name: str) -> str:
        """Return the namespace behind the one that the client names."""
        if len(name) > MAX_NAMESPACE_CHARACTERS or not _printable.fullmatch(name):
            raise BadRequestError(
                "invalid_namespace",
                f"A namespace has up to {MAX_NAMESPACE_CHARACTERS} printable ASCII characters.",
                param="namespace",
            )
        return namespace_of(self.tenant, "" if name == DEFAULT_NAMESPACE else name)

    def own(self, namespace: str) -> str | None:
        """Return the client's name of a namespace, None for one that is not the tenant's."""
        return own_namespace(self.tenant, namespace)

    def expect(self, namespace: object, asked: str) -> str:
        """Return the client's name of the namespace that a response is about; raise ForeignRowError for another."""
        if namespace != self.namespace(asked):
            raise ForeignRowError("The store answered from a namespace that was not asked for.")
        return asked

    def filter(self, client: object, *, text_match: bool = False) -> dict[str, Any]:
        """Return the filter for the tenant's own rows, joined with the client's."""
        return pinecone_filter.guarded(client, field=self.field, tenant=self.tenant, text_match=text_match)

    def refuse_field(self, name: str, path: str) -> None:
        """Refuse the tenant field wherever a client names fields."""
        if resembles(name, self.field):
            raise BadRequestError("reserved_field", f"{path}: {TENANT_FIELD_REFUSED}.", param=path)

    def stamped(self, metadata: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Return what is written with a row: the client's metadata, and whose it is."""
        for key in metadata:
            self.refuse_field(key, path)
        return {**metadata, self.field: self.tenant}

    def opened(self, metadata: object) -> dict[str, Any]:
        """Return a row's metadata as the client wrote it; raise ForeignRowError unless it is stamped."""
        if not isinstance(metadata, dict) or metadata.get(self.field) != self.tenant:
            raise ForeignRowError("The store answered with a row that is not stamped as the tenant's.")
        return {key: value for key, value in metadata.items() if key != self.field}


def scope_of(store_of: StoreOf) -> Scope:
    """Return the scope of a tenant in a store of the rules."""
    return Scope(tenant=store_of.tenant, field=store_of.store.tenant_field)


def passed_on(head: StoreHead) -> tuple[tuple[str, str], ...]:
    """Return the one header of a client's that reaches Pinecone: the version of the API that it speaks."""
    values = head.all("x-pinecone-api-version")
    if not values:
        return ()
    if len(values) > 1 or not _api_version.fullmatch(values[0]):
        raise BadRequestError("invalid_api_version", "x-pinecone-api-version is one YYYY-MM, or unstable.")
    return (("x-pinecone-api-version", values[0].decode()),)


class Work:
    """What one call has to remember of its request to check the response. Used once."""

    __slots__ = ("metadata", "namespace", "rows", "scope")

    def __init__(self, scope: Scope, namespace: str = "") -> None:
        self.scope = scope
        self.namespace = namespace
        """As the client wrote it."""
        self.metadata = True
        """Whether the client asked for metadata, which we always ask for."""
        self.rows = 0

    def physical(self) -> str:
        """Return the namespace that the store is asked for."""
        return self.scope.namespace(self.namespace)

    def opened(self, metadata: object) -> dict[str, Any]:
        """Return a verified row's metadata, and count the row."""
        self.rows += 1
        return self.scope.opened(metadata)
