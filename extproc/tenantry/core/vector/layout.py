"""Where a tenant's rows are in a Milvus: its database, the real name of a collection, its partition, its key prefix.

    isolation    db_name   collection           partition   primary key   rows of others in the same collection
    database     TOKEN     as named             the client's  as it is    no
    collection   as is     TOKEN_NAME           the client's  as it is    no
    partition    as is     NAME, or NAME__PLACE   TOKEN       as it is    yes, in other partitions
    keyprefix    as is     NAME, or NAME__PLACE   none        TOKEN:KEY   yes

In every layout the tenant column is written, filtered by and read back: the layout is the first lock, the filter the
second, the check of each returned row the third.
"""

import hashlib
import re
from collections.abc import Sequence

from msgspec import Struct

from tenantry.core.errors import BadRequestError, ForbiddenError, NotFoundError
from tenantry.core.vector import scope
from tenantry.core.vector.calls import Need, StoreOf

DEFAULT_DATABASE = "default"
COLLECTION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,221}")
MAX_NAMES = 1024
"""Of partitions or collections in one request: a name of 1 byte is one of 30 in the store."""

PARTITION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


class Place(Struct, frozen=True, kw_only=True):
    """One collection: the name that clients use, the real one, and its special fields.

    `primary_field` is None where primary keys stay as they are.
    """

    name: str
    physical: str
    tenant_field: str
    primary_field: str | None = None


class Layout:
    """The scope of one tenant in one Milvus store."""

    __slots__ = ("_collections", "_token", "database", "key_prefix", "own", "partition", "store", "tenant")

    def __init__(self, store_of: StoreOf) -> None:
        store = store_of.store
        self.tenant = store_of.tenant
        self.store = store
        self.own = store.isolation in ("database", "collection")
        """Whether collections are the tenant's own: it may make and drop them."""
        self.database = scope.database_of(self.tenant) if store.isolation == "database" else ""
        self.partition = scope.partition_of(self.tenant) if store.isolation == "partition" else None
        self.key_prefix = scope.key_prefix_of(self.tenant) if store.isolation == "keyprefix" else ""
        self._token = scope.token_of(self.tenant)
        self._collections = store.collections

    def place(self, name: str) -> Place:
        """Return the place of a collection that a client names; refuse one that is not there for it."""
        if COLLECTION_NAME.fullmatch(name) is None:
            raise BadRequestError(
                "invalid_collection_name",
                "A collection's name is 1 to 222 of A-Z a-z 0-9 _ and does not begin with a digit.",
                param="collection_name",
            )
        if self.own:
            physical = name if self.database else scope.collection_of(self.tenant, name)
            return Place(name=name, physical=physical, tenant_field=self.store.tenant_field)
        shared = self._collections.get(name)
        if shared is None:
            raise NotFoundError(
                "collection_not_found",
                "The collection does not exist, or you do not have access to it.",
                param="collection_name",
            )
        return Place(
            name=name,
            physical=scope.spread_of(self.tenant, name, shared.spread),
            tenant_field=shared.tenant_field,
            primary_field=shared.primary_field,
        )

    def physical(self, names: Sequence[str]) -> list[str]:
        """Return the real names of collections that a client names."""
        if len(names) > MAX_NAMES:
            raise BadRequestError("too_many_names", f"More than {MAX_NAMES} collections.", param="collection_names")
        return [self.place(name).physical for name in names]

    def place_or_nothing(self, name: str) -> Place:
        """Return the place, or for an unknown collection one that nobody can make: the store then says so itself."""
        try:
            return self.place(name)
        except NotFoundError:
            nowhere = scope.collection_of(self.tenant, name)
            return Place(name=name, physical=nowhere, tenant_field=self.store.tenant_field)

    def name_of(self, physical: str) -> str | None:
        """Return the client's name of a collection that the store names, None unless it is the tenant's to see."""
        if self.database:
            return physical
        if self.own:
            return scope.own_collection(self.tenant, physical)
        name = physical.partition(scope.SPREAD_SEPARATOR)[0]
        for candidate in {physical, name}:
            shared = self._collections.get(candidate)
            if shared is not None and scope.spread_of(self.tenant, candidate, shared.spread) == physical:
                return candidate
        return None

    def partitions(self, asked: list[str]) -> list[str]:
        """Return the partitions to look into, instead of those that the client asked for; [] is all of them."""
        if self.partition is not None:
            return [self.partition]
        if not self.own:
            return []
        if len(asked) > MAX_NAMES:
            raise BadRequestError("too_many_names", f"More than {MAX_NAMES} partitions.", param="partition_names")
        if any(PARTITION_NAME.fullmatch(name) is None for name in asked):
            raise BadRequestError(
                "invalid_partition_name",
                "A partition's name is 1 to 255 of A-Z a-z 0-9 _ and does not begin with a digit.",
                param="partition_names",
            )
        return asked

    def partition_to_write(self, asked: str) -> str:
        """Return the partition to write to or delete from; "" is the default one, or for a delete all of them."""
        chosen = self.partitions([asked] if asked else [])
        return chosen[0] if chosen else ""

    def need(self, place: Place | None) -> Need | None:
        """Return what has to be made before the tenant's first request (about `place`, None for none)."""
        if self.database:
            return Need(database=self.database)
        if self.partition is not None and place is not None:
            return Need(collection=place.physical, partition=self.partition)
        return None

    def check_database(self, asked: str) -> None:
        """Refuse a database that the client chooses; the default one stands for its own."""
        if asked not in ("", DEFAULT_DATABASE):
            raise ForbiddenError(
                "database_not_allowed", 'Leave the database out, or name "default": your own is chosen for you.'
            )

    def require_own(self, what: str) -> None:
        """Refuse what changes a collection, unless collections are the tenant's own."""
        if not self.own:
            raise ForbiddenError(
                "shared_collection", f"{what} is for the platform's operator: this store's collections are shared."
            )

    def public_id(self, name: str) -> int:
        """Return the id under which the client knows a collection.

        Iterators send it back to say which collection they mean. The store's own ids would tell how many collections
        others have, and could not be checked here; these can, since they follow from the names.
        """
        hashed = hashlib.sha256(f"collection\0{self._token}\0{name}".encode()).digest()
        return int.from_bytes(hashed[:8]) >> 1

    def shown(self, text: str) -> str:
        """Return a text of the store (an error) without the token in front of the client's own names."""
        return text.replace(f"{self._token}_", "").replace(f"{self._token}:", "").replace(self._token, DEFAULT_DATABASE)
