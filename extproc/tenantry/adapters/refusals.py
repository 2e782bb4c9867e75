"""The last requests that were answered here instead of forwarded, for an operator to look at.

Equal refusals (tenant, code, status, path, store) are one row with a count, so that a client that repeats itself a
thousand times a second pushes nobody else's out. Both the rows and the rows of one tenant are bounded. Nothing of what
the client wrote is kept: a path is one of the known routes, or empty.
"""

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tenantry.core.session import Session

MAX_ROWS = 200
MAX_ROWS_OF_A_TENANT = 20

Family = Literal["model", "store", "unknown"]


class Refused(Struct, frozen=True, kw_only=True):
    """Equal refusals: how many since the first one, and when it was last (Unix seconds).

    `tenant` is empty where none was verified. `path` is a model route or a store's operation, empty when the request
    was refused before it was clear what it asked for.
    """

    tenant: str
    code: str
    status: int
    family: Family
    path: str
    store: str
    count: int
    first_s: float
    last_s: float


class Refusals:
    """The ring. `total` counts all refusals of this process, as `tenantry_refusals_total` does."""

    def __init__(self, max_rows: int = MAX_ROWS, max_rows_of_a_tenant: int = MAX_ROWS_OF_A_TENANT) -> None:
        self._max_rows, self._max_of_a_tenant = max_rows, max_rows_of_a_tenant
        self._rows: dict[tuple[str, str, int, str, str], Refused] = {}
        self.total = 0

    def note(self, session: Session, now_s: float) -> None:
        """Take in the end of an exchange that was answered here; one that was not refused is nothing."""
        if session.refusal is None:
            return
        tenant = "" if session.tenant is None else session.tenant.profile.name
        family, path, store = _where(session)
        refusal = session.refusal
        self.total += 1
        key = (tenant, refusal.code, refusal.http_status, path, store)
        known = self._rows.pop(key, None)
        if known is None:
            self._make_room(tenant)
            known = Refused(
                tenant=tenant, code=refusal.code, status=refusal.http_status, family=family, path=path, store=store,
                count=0, first_s=now_s, last_s=now_s,
            )  # fmt: skip
        self._rows[key] = replace(known, count=known.count + 1, last_s=now_s)

    def newest(self, limit: int) -> list[Refused]:
        """Return the rows that were added to last, the newest first."""
        return list(reversed(self._rows.values()))[:limit]

    def _make_room(self, tenant: str) -> None:
        own = [key for key in self._rows if key[0] == tenant]
        if len(own) >= self._max_of_a_tenant:
            del self._rows[own[0]]
        elif len(self._rows) >= self._max_rows:
            del self._rows[next(iter(self._rows))]


def _where(session: Session) -> tuple[Family, str, str]:
    if session.store is not None:
        return "store", session.store.operation, session.store.store_of.name
    if session.api is not None:
        return "model", session.api.value, ""
    return "unknown", "", ""
