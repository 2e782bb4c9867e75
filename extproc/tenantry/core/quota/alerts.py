"""What an operator is told when a tenant has spent a share of its quota."""

from typing import Literal

from msgspec import Struct

from tenantry.core.quota.account import MILLI


class Alert(Struct, frozen=True, kw_only=True):
    """A share of the period's quota that a tenant has spent. Amounts are milliunits, `period` is 2026-11."""

    tenant: str
    period: str
    share: float
    used: int
    limit: int
    at_s: float
    kind: Literal["quota"] = "quota"

    @property
    def id(self) -> str:
        """The alert's id: there is one for each tenant, period and share."""
        return f"quota/{self.tenant}/{self.period}/{self.share:g}"

    @property
    def text(self) -> str:
        """A sentence for a person."""
        return (
            f"{self.tenant} has spent {self.used / MILLI:.10g} of its {self.limit // MILLI} compute units of "
            f"{self.period} ({self.share:.0%} or more)"
        )
