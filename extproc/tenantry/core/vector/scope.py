"""Which names in a store are a tenant's: the map from tenant to database, collection, partition, namespace and key.

A tenant is known in every store by its token: `t` and 26 characters of base32, which are 130 bits of SHA-256 over its
name. Names of other tenants are never made by replacing characters: `a.b` and `a_b` are two tenants, and Milvus would
allow only the second as a name. All tokens have one length, so that no token is the beginning of another, and
whatever follows a token (a collection's name, a primary key) cannot reach into another tenant's names:

    database     TOKEN
    collection   TOKEN_NAME
    partition    TOKEN
    keyprefix    TOKEN:KEY
    namespace    TOKEN, or TOKEN.NAME for a namespace that the client names

The letter in front is there because Milvus wants one (internal/proxy/util.go, validateName); so do lower case and the
absence of `-`. The map is not secret and has no key: a token must be the same for every replica and for ever.
"""

import base64
import hashlib
from functools import lru_cache

TOKEN_CHARACTERS = 27
SPREAD_SEPARATOR = "__"


@lru_cache(maxsize=65_536)
def token_of(tenant: str) -> str:
    """Return the name by which a store knows this tenant."""
    hashed = hashlib.sha256(b"tenantry store scope v1\0" + tenant.encode()).digest()
    return "t" + base64.b32encode(hashed)[: TOKEN_CHARACTERS - 1].decode().lower()


def database_of(tenant: str) -> str:
    """Return the tenant's database."""
    return token_of(tenant)


def collection_of(tenant: str, name: str) -> str:
    """Return the tenant's own collection behind the name that its clients use."""
    return f"{token_of(tenant)}_{name}"


def own_collection(tenant: str, physical: str) -> str | None:
    """Return the client's name of a collection of this tenant, None for any other collection."""
    prefix = f"{token_of(tenant)}_"
    return physical.removeprefix(prefix) if physical.startswith(prefix) else None


def partition_of(tenant: str) -> str:
    """Return the tenant's partition in a shared collection."""
    return token_of(tenant)


def spread_of(tenant: str, name: str, spread: int) -> str:
    """Return the one of `spread` equal collections that holds this tenant's partition or rows.

    Milvus has 1,024 partitions in a collection; tenants beyond that are spread over `NAME`, `NAME__1`, `NAME__2`, ...
    by their token. Raising `spread` moves tenants, so it is chosen once.
    """
    place = int.from_bytes(hashlib.sha256(b"spread\0" + token_of(tenant).encode()).digest()[:8]) % spread
    return name if place == 0 else f"{name}{SPREAD_SEPARATOR}{place}"


def spread_names(name: str, spread: int) -> list[str]:
    """Return the names of all `spread` collections behind the one that clients name."""
    return [name, *(f"{name}{SPREAD_SEPARATOR}{place}" for place in range(1, spread))]


def key_prefix_of(tenant: str) -> str:
    """Return what stands before each of the tenant's primary keys under `keyprefix`."""
    return f"{token_of(tenant)}:"


def namespace_of(tenant: str, name: str = "") -> str:
    """Return the tenant's Pinecone namespace behind the one that its client names; "" is the default one."""
    return f"{token_of(tenant)}.{name}" if name else token_of(tenant)


def own_namespace(tenant: str, physical: str) -> str | None:
    """Return the client's name of a namespace of this tenant, None for any other namespace."""
    token = token_of(tenant)
    if physical == token:
        return ""
    return physical.removeprefix(f"{token}.") if physical.startswith(f"{token}.") else None
