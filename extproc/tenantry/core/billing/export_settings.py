"""The document that says where usage is exported to: `tenantry ledger export run FILE`.

version: 1
source: prod-eu
since: "2026-11-01T00:00:00Z"
openmeter: {url: "https://openmeter.example", tokenFile: /run/secrets/openmeter}
lago: {url: "https://lago.example", tokenFile: /run/secrets/lago, code: tenantry_usage}
stripe: {tokenFile: /run/secrets/stripe, eventName: compute_units, customers: {acme: cus_123}}
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from msgspec import Meta, field

from tenantry.core.errors import Problem, RulesError
from tenantry.core.rules_base import Document, TenantName
from tenantry.core.schema import parse, unprintable

DestinationName = Literal["openmeter", "lago", "stripe"]
DESTINATIONS: tuple[DestinationName, ...] = ("openmeter", "lago", "stripe")

Url = Annotated[str, Meta(pattern=r"^https?://[^\s?#]+$", max_length=1_000, description="http(s)://HOST[:PORT][/PATH]")]
FileName = Annotated[str, Meta(min_length=1, max_length=1_000)]
_Id = Annotated[str, Meta(min_length=1, max_length=200)]
_Mapping = Annotated[dict[TenantName, _Id], Meta(max_length=100_000)]
_Hours = Annotated[float, Meta(ge=2, le=24 * 366)]

_AUTHORITY = re.compile(r"^(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?$")

MARGIN_HOURS = 1.0
"""An event whose fate is not known is not sent again so close to the end of a destination's memory."""


class Destination(Document, frozen=True, kw_only=True):
    """What all destinations have. The token stands in a file, which is read anew for each batch."""

    token_file: FileName | None = None
    timeout_seconds: Annotated[float, Meta(gt=0, le=300)] = 10.0


class OpenMeter(Destination, frozen=True, kw_only=True):
    """`subjects`: a tenant's subject, where it is not the tenant's name.

    `remembers_hours` is how long OpenMeter knows the ids that it has seen. It has to be told to at all, and then
    forgets after 24 hours unless `dedupe.config.expiration` says otherwise.
    """

    url: Url
    subjects: _Mapping = field(default_factory=dict)
    remembers_hours: _Hours = 24.0
    batch: Annotated[int, Meta(ge=1, le=1_000)] = 100


class Lago(Destination, frozen=True, kw_only=True):
    """`code` is the billable metric's, `subscriptions` a tenant's, where it is not the tenant's name.

    Lago forgets no `transaction_id`.
    """

    url: Url
    code: _Id
    subscriptions: _Mapping = field(default_factory=dict)
    batch: Annotated[int, Meta(ge=1, le=100, description="Lago takes 100 at most")] = 100


class Stripe(Destination, frozen=True, kw_only=True):
    """`event_name` is the meter's (aggregation: sum), `customers` a tenant's id there; without one nothing is sent.

    `unit_micro` says what a whole number counts, in millionths of a compute unit. `corrections`: whether a negative sum
    is sent, or left for a person.
    """

    url: Url = "https://api.stripe.com"
    event_name: Annotated[str, Meta(min_length=1, max_length=100)]
    customers: _Mapping
    unit_micro: Literal[1, 1_000, 1_000_000] = 1_000
    corrections: Literal["park", "send"] = "park"


class ExportSettings(Document, frozen=True, kw_only=True):
    """`source` names this ledger among others that report to the same place; it must never change.

    Usage that ended before `since` is not exported: it was billed otherwise.
    """

    version: Literal[1] = 1
    source: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$")]
    since: Annotated[str, Meta(max_length=40, description='in quotes: "2026-11-01T00:00:00Z"')]
    openmeter: OpenMeter | None = None
    lago: Lago | None = None
    stripe: Stripe | None = None

    @property
    def since_s(self) -> float:
        """Unix time of `since`."""
        return _moment(self.since).timestamp()

    def names(self) -> tuple[DestinationName, ...]:
        """Return the destinations that are configured."""
        return tuple(name for name in DESTINATIONS if getattr(self, name) is not None)


def parse_settings(document: object) -> ExportSettings:
    """Validate plain data; raise RulesError with every problem."""
    settings = parse(document, ExportSettings)
    problems = list(unprintable(document, ""))
    try:
        _moment(settings.since)
    except ValueError:
        hint = 'with its offset, as "2026-11-01T00:00:00Z"'
        problems.append(Problem(path="since", message=f'"{settings.since}" is no moment', hint=hint))
    if not settings.names():
        hint = f"name at least one of {', '.join(DESTINATIONS)}"
        problems.append(Problem(path="", message="no destination", hint=hint))
    for name in settings.names():
        problems += _bad_url(name, getattr(settings, name).url, secret=getattr(settings, name).token_file is not None)
    if settings.stripe is not None and settings.stripe.token_file is None:
        problems.append(Problem(path="stripe.tokenFile", message="missing", hint="a file that holds a restricted key"))
    if problems:
        raise RulesError(problems)
    return settings


def _bad_url(name: str, url: str, *, secret: bool) -> list[Problem]:
    path = f"{name}.url"
    scheme, _, rest = url.partition("://")
    authority = rest.partition("/")[0]
    if "@" in authority:
        return [Problem(path=path, message="holds a credential", hint="put it into a file and name it in tokenFile")]
    if (parts := _AUTHORITY.match(authority)) is None or not 1 <= int(parts["port"] or 443) <= 65535:
        return [Problem(path=path, message="has no host, or a port that is none", hint="http(s)://HOST[:PORT][/PATH]")]
    if secret and scheme == "http" and parts["host"] not in ("127.0.0.1", "[::1]", "localhost"):
        return [Problem(path=path, message="would send the token in clear text", hint="https://")]
    return []


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset")
    return moment.astimezone(UTC)
