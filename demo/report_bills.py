"""The report's part on metering, as data. GPU time is in seconds, exact to the nanosecond; money is decimal text."""

from msgspec import Struct


class AmountReport(Struct, frozen=True, kw_only=True):
    """Money: a decimal number as text, and its currency (ISO 4217)."""

    amount: str
    currency: str


class InvoiceLineReport(Struct, frozen=True, kw_only=True):
    """A line of an invoice. `kind` is `request` or `cold_start` (the tenant's share). Money is decimal text."""

    kind: str
    model: str
    version: str
    tier: str
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    gpu_seconds: float
    compute_units: float
    compute_unit_price: str
    gpu_hour_price: str
    amount: str


class BilledReport(Struct, frozen=True, kw_only=True):
    """A tenant's part of the ledger.

    `answered` are the answers that its clients got, `requests` those that the ledger bills it for.
    `cold_start_gpu_seconds` is its share of the cold starts of the models that it used.
    """

    answered: int
    requests: int
    gpu_seconds: float
    cold_start_gpu_seconds: float
    compute_units: float
    invoice: AmountReport
    lines: list[InvoiceLineReport]


class MeteringReport(Struct, frozen=True, kw_only=True):
    """How GPU time was spent, in GPU-seconds: tenants + operator + cold_start + idle = wall_gpu_seconds.

    `busy` is that of steps: `tenants` is what tenants' requests took of it, `operator` the rest (`mirror`, the mirrored
    copies; failed attempts, work without a tenant, what is in no record). `conserved` is whether the sums hold to the
    nanosecond; `gpu_ns` has the exact figures by part, and `unexplained_ns` what no part accounts for. `billed` is by
    tenant, `charged` the sum of the invoices, `cost` what all the GPU time costs the operator.
    """

    period: str = ""
    wall_gpu_seconds: float = 0.0
    busy: float = 0.0
    idle: float = 0.0
    cold_start: float = 0.0
    tenants: float = 0.0
    operator: float = 0.0
    mirror: float = 0.0
    conserved: bool = False
    unexplained_ns: int = 0
    gpu_ns: dict[str, int] = {}
    cold_starts: int = 0
    mirrored: int = 0
    charged: AmountReport = AmountReport(amount="0", currency="")
    cost: AmountReport = AmountReport(amount="0", currency="")
    billed: dict[str, BilledReport] = {}
