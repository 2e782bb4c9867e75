"""The rules document's `stores`: vector stores, and how tenants are kept apart in them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

from msgspec import Meta

from tenantry.core.errors import Problem
from tenantry.core.rules_base import Document, Endpoint, bad_ports
from tenantry.core.schema import join

FieldName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$", description="as in the schema")]
CollectionName = Annotated[
    str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,221}$", description="1 to 222 of A-Z a-z 0-9 _")
]
StoreName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="1 to 63 of a-z 0-9 -")]
HostName = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", description="lower case, no port")]


class Collection(Document, frozen=True, kw_only=True):
    """A collection that tenants share.

    `tenant_field` is the VARCHAR field that says whose a row is. `primary_field` is the VARCHAR primary key, which
    `keyprefix` has to know. `spread` equal collections (NAME, NAME__1, ...) hold the tenants, by a hash: Milvus has no
    more than 1,024 partitions in one. Raising it later moves tenants away from their rows.
    """

    tenant_field: FieldName = "tenant_id"
    primary_field: FieldName | None = None
    spread: Annotated[int, Meta(ge=1, le=1_024)] = 1


class StoreTls(Document, frozen=True, kw_only=True):
    """TLS to a store. Its certificate is of a CA in `ca_file` (on the proxy's disk) and names the endpoint's host."""

    ca_file: Annotated[str, Meta(min_length=1)] = "/etc/ssl/certs/ca-certificates.crt"


class Store(Document, frozen=True, kw_only=True):
    """A vector store and how tenants are kept apart in it.

    `endpoints` speak gRPC and REST, as Milvus does on its one port, or REST alone where `grpc_endpoints` are named.

    Under `partition` and `keyprefix` tenants share the `collections` named here, which the operator makes. Under
    `database` and `collection` tenants make their own, of any name, and `tenant_field` is added to each. `hosts` are
    the names under which clients reach this store; a store without any serves every other host, one for each kind.
    `load_and_flush` lets tenants flush collections that they share, and load them with parameters (it costs others
    time, never rows).
    """

    kind: Literal["milvus", "pinecone"]
    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1)]
    grpc_endpoints: tuple[Endpoint, ...] = ()
    tls: StoreTls | None = None
    isolation: Literal["database", "collection", "partition", "keyprefix", "namespace"]
    hosts: Annotated[tuple[HostName, ...], Meta(max_length=64)] = ()
    tenant_field: FieldName = "tenant_id"
    collections: dict[CollectionName, Collection] = {}
    load_and_flush: bool = False


def store_problems(stores: Mapping[str, Store]) -> Iterator[Problem]:
    """Yield what is wrong with a valid document's stores: unfit isolation, doubled hosts, bad ports."""
    served: dict[tuple[str, str], str] = {}
    for name, store in stores.items():
        path = join("stores", name)
        yield from bad_ports(path, store.endpoints)
        yield from bad_ports(path, store.grpc_endpoints, "grpcEndpoints")
        yield from _unfit(path, store)
        for host in store.hosts or ("",):
            first = served.setdefault((store.kind, host), name)
            if first != name:
                yield Problem(
                    path=f"{path}.hosts",
                    message=f'{store.kind} store "{first}" serves {host or "every host"} already',
                    hint="name the hosts by which clients reach each of them",
                )


def _unfit(path: str, store: Store) -> Iterator[Problem]:
    if (store.isolation == "namespace") != (store.kind == "pinecone"):
        right = "namespace" if store.kind == "pinecone" else "database, collection, partition or keyprefix"
        yield Problem(
            path=join(path, "isolation"),
            message=f"{store.kind} has no isolation by {store.isolation}",
            hint=f"use {right}",
        )
    if store.tls is not None:
        yield from _unnamed_hosts(path, "endpoints", store.endpoints)
        yield from _unnamed_hosts(path, "grpcEndpoints", store.grpc_endpoints)
    shared = store.isolation in ("partition", "keyprefix")
    if shared != bool(store.collections):
        yield Problem(
            path=join(path, "collections"),
            message="no collection is named" if shared else f"tenants name their own under {store.isolation}",
            hint="name those that tenants share" if shared else "remove it; tenantField of the store is for all",
        )
    for name, collection in store.collections.items():
        where = join(f"{path}.collections", name)
        if "__" in name:
            yield Problem(path=where, message="a name with __ is kept for spread collections", hint="choose another")
        if (store.isolation == "keyprefix") != (collection.primary_field is not None):
            needed = collection.primary_field is None
            yield Problem(
                path=join(where, "primaryField"),
                message="keyprefix must know the primary key" if needed else "only keyprefix rewrites primary keys",
                hint="name the VARCHAR primary field" if needed else "remove it",
            )
        elif collection.primary_field == collection.tenant_field:
            yield Problem(path=join(where, "primaryField"), message="it is the tenant field", hint="name another")


def _unnamed_hosts(path: str, member: str, endpoints: Iterable[str]) -> Iterator[Problem]:
    for index, endpoint in enumerate(endpoints):
        host = endpoint.rpartition(":")[0]
        if host.startswith("[") or host.replace(".", "").isdigit():
            yield Problem(
                path=f"{path}.{member}[{index}]",
                message="an address has no name that its certificate could prove",
                hint="give the host's name, or remove tls",
            )
