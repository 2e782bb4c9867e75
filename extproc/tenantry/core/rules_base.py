"""What every part of the rules document is made of: names, bounded numbers, and the base of its structs."""

from collections.abc import Iterable, Iterator
from typing import Annotated

from msgspec import Meta, Struct

from tenantry.core.errors import Problem

TENANT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

TenantName = Annotated[str, Meta(pattern=TENANT_PATTERN, description="1 to 63 of A-Z a-z 0-9 . _ -")]
TIER_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}$"
TierName = Annotated[str, Meta(pattern=TIER_PATTERN, description="1 to 32 of a-z 0-9 -")]
ModelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$", description="as clients send it")]
VersionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$", description='quote it: "1.4"')]
Endpoint = Annotated[str, Meta(pattern=r"^([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$", description="host:port")]
KeyDigest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$", description="from `tenantry key new`")]
HeaderName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="lower case")]
Percent = Annotated[float, Meta(ge=0, le=100)]
PositiveInt = Annotated[int, Meta(gt=0, le=10**15)]
Objective = Annotated[float, Meta(gt=0, lt=1, description="between 0 and 1, both excluded")]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
OddsMargin = Annotated[float, Meta(ge=1, le=1_000)]
StickySource = Annotated[
    str,
    Meta(
        pattern=r"^(body\.[A-Za-z_][A-Za-z0-9_]{0,63}|header\.[a-z0-9][a-z0-9-]{0,63})$",
        description="body.MEMBER or header.NAME",
    ),
]


class Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of every struct of the document: frozen, strict, camelCase outside."""


def bad_ports(path: str, endpoints: Iterable[str], member: str = "endpoints") -> Iterator[Problem]:
    """Yield a problem for each endpoint whose port no host has."""
    for index, endpoint in enumerate(endpoints):
        port = int(endpoint.rpartition(":")[2])
        if not 1 <= port <= 65535:
            yield Problem(path=f"{path}.{member}[{index}]", message=f"no port has the number {port}", hint="1 to 65535")
