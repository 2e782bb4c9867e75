"""What the rewriting of one Milvus request knows: the tenant's layout, and the collection that the request is about."""

from typing import Any

from tenantry.core.errors import BadRequestError
from tenantry.core.vector.calls import Need
from tenantry.core.vector.column import Column
from tenantry.core.vector.layout import DEFAULT_DATABASE, Layout, Place


class Scoped:
    """One request in the tenant's scope, from its message to its answer."""

    __slots__ = ("_absent", "_place", "columns", "counts", "layout")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._place: Place | None = None
        self._absent = False
        self.columns: tuple[Column, ...] = ()
        """Those of a write, to be held against the schema."""
        self.counts = False
        """Whether `count(*)` alone was asked for."""

    @property
    def place(self) -> Place:
        """The collection that the request is about."""
        if self._place is None:  # no method of the table answers about a collection that it did not enter
            raise AssertionError("no collection was entered")
        return self._place

    @property
    def need(self) -> Need | None:
        """What has to be made before the request is passed on."""
        need = self.layout.need(None if self._absent else self._place)
        if not self.columns:
            return need
        place = self.place
        if need is None:
            return Need(collection=place.physical, columns=self.columns)
        return Need(database=need.database, collection=place.physical, partition=need.partition, columns=self.columns)

    def enter(self, request: Any, *, perhaps: bool = False) -> None:
        """Set the database and the real name of the collection that `request` names.

        `perhaps`: a collection that is not there is for the store to deny.
        """
        self.enter_database(request)
        name = request.collection_name
        self._place = self.layout.place_or_nothing(name) if perhaps else self.layout.place(name)
        self._absent = perhaps
        request.collection_name = self._place.physical

    def enter_database(self, request: Any) -> None:
        """Set the database, and leave nothing of `base` but the kind of the message.

        The store fills the rest of `base` itself; its timestamps and ids are between its own parts.
        """
        self.layout.check_database(request.db_name)
        request.db_name = self.layout.database
        strip_base(request)

    def refuse_tenant_field(self, name: str, param: str) -> None:
        """Refuse the tenant field's name in any case: no client needs it, and some engines fold case."""
        if name.casefold() == self.place.tenant_field.casefold():
            raise BadRequestError("reserved_field", "A field that is named here is reserved.", param=param)

    def show_database(self, answer: Any) -> None:
        """Name the default database, where an answer names the tenant's."""
        answer.db_name = DEFAULT_DATABASE


def strip_base(request: Any) -> None:
    """Leave nothing of `base` but the kind of the message."""
    if request.HasField("base"):
        kind = request.base.msg_type
        request.ClearField("base")
        request.base.msg_type = kind
