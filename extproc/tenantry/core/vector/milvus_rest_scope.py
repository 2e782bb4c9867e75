"""What the rewriting of one REST request to Milvus knows, and the kinds of members that several paths share."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from tenantry.core.errors import BadRequestError
from tenantry.core.vector.calls import Need
from tenantry.core.vector.expr import KeyRewrite, TemplateValue, scoped
from tenantry.core.vector.layout import DEFAULT_DATABASE, PARTITION_NAME, Layout, Place
from tenantry.core.vector.strictjson import expect, require

Members = dict[str, Any]
"""A JSON object whose members were checked."""

Member = Callable[[Any, str], Any]
"""A kind of member: takes its value and its path, returns it rebuilt or raises BadRequestError."""

FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
MAX_NAMES = 1024
MAX_FILTER_CHARACTERS = 1024 * 1024
MAX_TEMPLATES = 256
MAX_TEMPLATE_ITEMS = 16_384


class RestScope:
    """One request in the tenant's scope, from its members to its answer."""

    __slots__ = ("_absent", "_place", "counts", "layout")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._place: Place | None = None
        self._absent = False
        self.counts = False
        """Whether `count(*)` alone was asked for."""

    @property
    def place(self) -> Place:
        """The collection that the request is about."""
        if self._place is None:  # no path of the table answers about a collection that it did not enter
            raise AssertionError("no collection was entered")
        return self._place

    @property
    def need(self) -> Need | None:
        """What has to be made before the request is passed on."""
        return self.layout.need(None if self._absent else self._place)

    @property
    def keys(self) -> KeyRewrite | None:
        """How primary keys are written in filters; None where they stay as they are."""
        primary = self.place.primary_field
        return KeyRewrite(field=primary, prefix=self.layout.key_prefix) if primary and self.layout.key_prefix else None

    def enter_database(self, members: Members) -> Members:
        """Return the start of a request: the database, always there.

        Milvus takes the database from the header `DB-Name` where the body has none (handler_v2.go, wrapperPost).
        """
        self.layout.check_database(members.get("dbName", ""))
        return {"dbName": self.layout.database or DEFAULT_DATABASE}

    def enter(self, members: Members, *, perhaps: bool = False) -> Members:
        """Return the start of a request: database and real name of the collection that the client named.

        `perhaps`: a collection that is not there is for the store to deny.
        """
        entered = self.enter_database(members)
        name = required(members, "collectionName")
        self._place = self.layout.place_or_nothing(name) if perhaps else self.layout.place(name)
        self._absent = perhaps
        return entered | {"collectionName": self._place.physical}

    def refuse_tenant_field(self, name: str, path: str) -> None:
        """Refuse the tenant field's name in any case: no client needs it, and Go's decoder folds case."""
        if name.casefold() == self.place.tenant_field.casefold():
            raise BadRequestError("reserved_field", f"A field that {path} names is reserved: leave it out.", param=path)

    def field(self, members: Members, name: str) -> Members:
        """Return the member that names a field, where it is there and not the tenant's."""
        if name not in members:
            return {}
        self.refuse_tenant_field(members[name], name)
        return {name: members[name]}

    def partitions(self, members: Members) -> Members:
        """Return the member `partitionNames`, if there is to be one."""
        found = self.layout.partitions(members.get("partitionNames", []))
        return {"partitionNames": found} if found else {}

    def partition_to_write(self, members: Members) -> Members:
        """Return the member `partitionName`, if there is to be one."""
        found = self.layout.partition_to_write(members.get("partitionName", ""))
        return {"partitionName": found} if found else {}

    def guarded(self, text: str, templates: dict[str, TemplateValue]) -> str:
        """Return the client's filter behind the tenant's, with the values of its templates put in."""
        return scoped(
            text, field=self.place.tenant_field, tenant=self.layout.tenant, templates=templates, keys=self.keys
        )


def required(members: Members, name: str, prefix: str = "") -> Any:
    """Return a member that has to be there; `prefix` says of which object."""
    if name not in members:
        raise BadRequestError("invalid_body", f"{prefix}{name} is missing.", param=f"{prefix}{name}")
    return members[name]


def integer(least: int, most: int) -> Member:
    """Return the kind: an integer within bounds."""

    def check(value: Any, path: str) -> int:
        found: int = expect(value, path, int)
        if not least <= found <= most:
            raise BadRequestError("invalid_body", f"{path} must be {least} to {most}.", param=path)
        return found

    return check


def text(most: int) -> Member:
    """Return the kind: a string of at most `most` characters."""

    def check(value: Any, path: str) -> str:
        found: str = expect(value, path, str)
        if len(found) > most:
            raise BadRequestError("invalid_body", f"{path} has more than {most} characters.", param=path)
        return found

    return check


def choice(values: Iterable[str]) -> Member:
    """Return the kind: one of these strings."""
    allowed = frozenset(values)

    def check(value: Any, path: str) -> str:
        found: str = expect(value, path, str)
        if found not in allowed:
            raise BadRequestError("invalid_body", f"{path} must be one of {', '.join(sorted(allowed))}.", param=path)
        return found

    return check


def matching(pattern: re.Pattern[str], form: str) -> Member:
    """Return the kind: a string that matches a pattern whole; `form` says which."""

    def check(value: Any, path: str) -> str:
        found: str = expect(value, path, str)
        if pattern.fullmatch(found) is None:
            raise BadRequestError("invalid_body", f"{path} must be {form}.", param=path)
        return found

    return check


def objects(members: dict[str, Any], most: int) -> Member:
    """Return the kind: at most `most` objects with these members alone."""
    return many(lambda value, path: require(value, path, members, drop_null=True), most)


def many(one: Member, most: int) -> Member:
    """Return the kind: an array of at most `most` members of a kind."""

    def check(value: Any, path: str) -> list[Any]:
        found = expect(value, path, list)
        if len(found) > most:
            raise BadRequestError("invalid_body", f"{path} has more than {most} members.", param=path)
        return [one(each, f"{path}[{place}]") for place, each in enumerate(found)]

    return check


def scalars(allowed: Iterable[str]) -> Member:
    """Return the kind: an object of these members, each a number, a flag or a short word."""
    members = dict.fromkeys(allowed, scalar)
    return lambda value, path: require(value, path, members, drop_null=True)


_WORD = re.compile(r"[A-Za-z0-9_.-]{0,64}")


def scalar(value: Any, path: str) -> bool | float | str:
    """Return a number, a flag or a short word."""
    found: bool | float | str = expect(value, path, (bool, float, str))
    if isinstance(found, str) and _WORD.fullmatch(found) is None:
        raise BadRequestError("invalid_body", f"{path} must be at most 64 of A-Z a-z 0-9 _ . -", param=path)
    return found


def templates(value: Any, path: str) -> dict[str, TemplateValue]:
    """Return the values for names in braces in a filter. Their text never reaches a filter but through its grammar."""
    found = expect(value, path, dict)
    if len(found) > MAX_TEMPLATES:
        raise BadRequestError("invalid_body", f"{path} has more than {MAX_TEMPLATES} members.", param=path)
    # A name that the filter's grammar does not have is one that the filter does not use, which is refused there.
    return {name: _template(each, path) for name, each in found.items()}


def _template(value: Any, path: str) -> TemplateValue:
    if not isinstance(value, list):
        found: bool | int | float | str = expect(value, path, (bool, float, str))
        return found
    if len(value) > MAX_TEMPLATE_ITEMS:
        raise BadRequestError("invalid_body", f"{path} has more than {MAX_TEMPLATE_ITEMS} members.", param=path)
    return tuple(expect(each, path, (bool, float, str)) for each in value)


field_name = matching(FIELD_NAME, "the name of a field: letters, digits and _")
partition_name = matching(PARTITION_NAME, "the name of a partition: letters, digits and _")
partition_names = many(partition_name, MAX_NAMES)
filter_text = text(MAX_FILTER_CHARACTERS)

DATABASE: dict[str, Any] = {"dbName": text(255)}
COLLECTION: dict[str, Any] = DATABASE | {"collectionName": text(255)}
