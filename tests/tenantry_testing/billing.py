"""A month of a small platform: what a ledger would sum up, and the rules that price it."""

from tenantry.core.billing.tallies import EngineTally, Owner, Tally
from tenantry.core.rules import Rules, parse

from tenantry_testing.documents import document

PERIOD = "2026-11"
SECOND = 10**9
HOUR = 3_600 * SECOND

PRICES = {
    "gold": {
        "priority": 0,
        "price": {
            "computeUnit": "0.0042", "gpuHour": "1.50", "trainingGpuHour": "2.00", "coldStartGpuHour": "3.00"
        },
        "quota": {"computeUnitsPerPeriod": 1000},
    },
    "bronze": {"priority": 20, "price": {"computeUnit": "0.0030", "coldStartGpuHour": "3.00"}},
}  # fmt: skip


def rules(**sections: object) -> Rules:
    """Return priced rules: gold for acme, bronze for globex and initech; what a GPU costs the operator is 0.90."""
    return parse(document(**({"tiers": PRICES, "billing": {"operatorGpuHour": "0.90"}} | sections)))


def tally(tenant: str = "acme", **changes: object) -> Tally:
    """Return a tally of requests, or of what `changes` says."""
    usual: dict[str, object] = {
        "period": PERIOD, "owner": "tenant", "tenant": tenant, "tier": "gold" if tenant == "acme" else "bronze",
        "model": "chat-8b", "version": "1.4.0", "measured": "engine",
    }  # fmt: skip
    return Tally(**(usual | changes))  # type: ignore[arg-type]


def operators(owner: Owner, gpu_ns: int) -> Tally:
    """Return a tally that the operator pays for."""
    return tally("acme" if owner != "unstamped" else "", owner=owner, prefill_gpu_ns=gpu_ns, records=1)


def month() -> tuple[list[Tally], list[EngineTally]]:
    """Return a month with something of everything that an invoice or statement has."""
    tallies = [
        tally(
            "acme", requests=90, records=95, input_tokens=9_000, cached_tokens=1_000, output_tokens=4_500,
            prefill_gpu_ns=20 * SECOND, decode_gpu_ns=40 * SECOND, compute_units_micro=22_600_000,
        ),
        tally(
            "acme", adapter="acme-support", requests=10, records=10, input_tokens=1_000, output_tokens=500,
            decode_gpu_ns=6 * SECOND, compute_units_micro=2_500_000,
        ),
        tally(
            "globex", requests=50, records=50, input_tokens=5_000, output_tokens=2_500,
            decode_gpu_ns=33 * SECOND, compute_units_micro=12_500_000,
        ),
        tally("acme", kind="training", version="", measured="", records=2, prefill_gpu_ns=HOUR // 2),
        tally("globex", period=PERIOD, corrects="2026-10", requests=-1, compute_units_micro=-4_000_000),
        operators("mirror", 4 * SECOND),
        operators("failed", 2 * SECOND),
        operators("unstamped", SECOND),
        operators("unfinished", SECOND),
    ]  # fmt: skip
    engines = [
        EngineTally(
            period=PERIOD, model="chat-8b", version="1.4.0", engines=2, wall_gpu_ns=2 * HOUR, busy_gpu_ns=110 * SECOND,
            cold_start_gpu_ns=300 * SECOND, cold_starts=2, attributed_gpu_ns=107 * SECOND,
        )
    ]  # fmt: skip
    return tallies, engines
