"""The rules document's part about money: what a model's work weighs, what it costs, and what may be spent.

A *compute unit* is the common measure of quotas and prices: 10^12 floating-point operations of the model's forward
pass, where an input token counts `input_weight` times, a cached one `cached_weight` and an output token
`output_weight` times. One that knows its model's FLOPs per token pays alike for small and large models.
"""

from typing import Annotated, Literal

from msgspec import Meta

from tenantry.core.rules_base import Document

Amount = Annotated[
    str,
    Meta(pattern=r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,12})?$", description='a decimal number in quotes: "0.0042"'),
]
"""Money is decimal. It stands in quotes, since YAML would make a binary fraction of it."""

Weight = Annotated[float, Meta(ge=0, le=1_000)]
Share = Annotated[float, Meta(gt=0, le=10)]

UnitsPerMinute = Annotated[int, Meta(ge=1, le=100_000_000)]
UnitsPerPeriod = Annotated[int, Meta(ge=1, le=5_000_000_000_000)]
"""Their greatest values keep a quota's arithmetic below 2^53 (`core.quota.account`): 1.7 EFLOP/s for one tenant."""

UsageSource = Literal["plugin", "estimate", "response"]


class ModelProfile(Document, frozen=True, kw_only=True):
    """What a token of a model weighs. `tenantry profile CONFIG.json` prints it for a model's config.json.

    The weights' defaults follow measured steps: a decode token costs about three prefill tokens, a cached one little.
    Without a profile 1,000 input tokens are a compute unit.
    """

    gigaflops_per_token: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    input_weight: Weight = 1.0
    cached_weight: Weight = 0.1
    output_weight: Weight = 3.0


class Quota(Document, frozen=True, kw_only=True):
    """What each tenant of a tier may spend, in compute units per minute and per billing period (a calendar month, UTC).

    An alert tells when a tenant has spent one of `alert_at` (shares of the period's quota).
    """

    compute_units_per_minute: UnitsPerMinute | None = None
    compute_units_per_period: UnitsPerPeriod | None = None
    alert_at: Annotated[tuple[Share, ...], Meta(max_length=10)] = (0.5, 0.8, 1.0)


class Price(Document, frozen=True, kw_only=True):
    """What a tier pays, in `billing.currency`. Absent: nothing.

    A request costs its compute units times `compute_unit` plus its GPU-hours times `gpu_hour`. Training pays
    `training_gpu_hour`; the share of cold starts pays `cold_start_gpu_hour`.
    """

    compute_unit: Amount = "0"
    gpu_hour: Amount = "0"
    training_gpu_hour: Amount = "0"
    cold_start_gpu_hour: Amount = "0"


class Billing(Document, frozen=True, kw_only=True):
    """How invoices are written. `currency_digits` are those of the smallest unit (2: cents).

    `operator_gpu_hour` is what a GPU-hour costs the operator: idle time, mirror traffic and failed attempts are shown
    at it. `close_after_hours`: a period is closed no earlier than so long after its end, as records may be late.
    """

    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$", description="ISO 4217")] = "EUR"
    currency_digits: Annotated[int, Meta(ge=0, le=6)] = 2
    operator_gpu_hour: Amount = "0"
    close_after_hours: Annotated[float, Meta(ge=0, le=720)] = 24.0
