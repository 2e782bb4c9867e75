"""Whether the collections that a store's tenants share are such that tenants can be kept apart in them.

A collection is the operator's; this says what is wrong with it before any tenant's row is in it. Whether the engine
then keeps what the layout promises is for `probe` to show.
"""

import hashlib
from collections.abc import Iterator

from msgspec import Struct

from tenantry.core.rules_stores import Collection, Store
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.canary_rows import parameter
from tenantry.core.vector.milvus_rows import VARCHAR
from tenantry.core.vector.operator import Steps, describe, indexes
from tenantry.core.vector.scope import TOKEN_CHARACTERS, spread_names

LONGEST_TENANT = 63
KEY_PREFIX_CHARACTERS = TOKEN_CHARACTERS + 1


class Shared(Struct, frozen=True, kw_only=True):
    """One collection of the engine that tenants share, as it was found.

    `name` is the one in the rules, `physical` one of its `spread`. `schema` and `indexes` are serialised messages;
    `problems` is empty for a collection in which tenants can be kept apart.
    """

    name: str
    physical: str
    rules: Collection
    schema: bytes = b""
    indexes: tuple[bytes, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of what a proof depends on: the schema without what differs in equal collections, and no index.

        Indexes come and go, and how rows are found fast does not say which rows are a tenant's.
        """
        schema = pb.CollectionSchema.FromString(self.schema)
        for name in ("name", "description", "properties"):
            schema.ClearField(name)
        for field in schema.fields:
            field.ClearField("fieldID")
        roles = repr((self.rules.tenant_field, self.rules.primary_field))
        return hashlib.sha256(roles.encode() + schema.SerializeToString(deterministic=True)).hexdigest()


def survey(store: Store) -> Steps[list[Shared]]:
    """Look at every collection that the store's tenants share; [] where they have their own."""
    found = []
    for name, rules in store.collections.items():
        for physical in spread_names(name, rules.spread):
            answer = yield from describe(physical)
            if answer is None or not answer.schema.fields:
                problem = f'collection "{physical}" does not exist: make it (`tenantry stores provision --create`)'
                found.append(Shared(name=name, physical=physical, rules=rules, problems=(problem,)))
                continue
            made = yield from indexes(physical)
            problems = tuple(
                f'collection "{physical}": {text}' for text in _unfit(store.isolation, rules, answer.schema)
            )
            found.append(
                Shared(
                    name=name,
                    physical=physical,
                    rules=rules,
                    schema=answer.schema.SerializeToString(deterministic=True),
                    indexes=tuple(index.SerializeToString(deterministic=True) for index in made),
                    problems=problems,
                )
            )
    return found


def _unfit(isolation: str, rules: Collection, schema: pb.CollectionSchema) -> Iterator[str]:
    fields = {field.name: field for field in schema.fields}
    yield from _tenant_field(rules.tenant_field, fields.get(rules.tenant_field))
    primary = next((field for field in schema.fields if field.is_primary_key), None)
    if primary is None:
        yield "it has no primary key"
    elif isolation == "keyprefix":
        yield from _primary_field(rules.primary_field or "", primary, auto=primary.autoID or schema.autoID)
    keys = [field.name for field in schema.fields if field.is_partition_key]
    if isolation == "partition" and keys:
        yield (
            f'the partition key "{keys[0]}" lets no request name a partition: make the field an ordinary one, '
            "or use keyprefix with a VARCHAR primary key"
        )


def _tenant_field(name: str, field: pb.FieldSchema | None) -> Iterator[str]:
    if field is None:
        yield f'it has no field "{name}": add it as VARCHAR of at least {LONGEST_TENANT}, or name tenantField'
        return
    if field.is_primary_key:
        yield f'the tenant field "{name}" is its primary key: each needs a field of its own'
    if field.data_type != VARCHAR:
        yield f'the tenant field "{name}" is not VARCHAR'
    elif (parameter(field.type_params, "max_length") or 0) < LONGEST_TENANT:
        yield f'the tenant field "{name}" is too short for a tenant\'s name: give it max_length {LONGEST_TENANT + 1}'


def _primary_field(name: str, primary: pb.FieldSchema, *, auto: bool) -> Iterator[str]:
    if primary.name != name:
        yield f'its primary key is "{primary.name}", and the rules\' primaryField "{name}"'
    if primary.data_type != VARCHAR:
        yield f'the primary key "{primary.name}" is not VARCHAR, so keyprefix cannot prefix it: use collection'
        return
    if auto:
        yield f'the engine makes the primary key "{primary.name}" (auto_id), so keyprefix cannot prefix it'
    if (parameter(primary.type_params, "max_length") or 0) <= KEY_PREFIX_CHARACTERS:
        yield (
            f'the primary key "{primary.name}" is too short: the prefix alone takes {KEY_PREFIX_CHARACTERS} '
            "characters; give it max_length 64 or more"
        )
