"""Who pays for a cold start: everybody who used the model in the billing period, in proportion to use.

An engine that starts holds its GPUs for minutes before it serves a request. Whose request woke it is chance. So the
period's cold starts of a model are one sum, divided among its tenants when the period is over; the first request costs
what any other costs.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tenantry.core.billing.money import divided
from tenantry.core.billing.tallies import EngineTally, Tally


def cold_start_shares(
    period: str, tallies: Iterable[Tally], engines: Iterable[EngineTally]
) -> dict[str, dict[str, dict[str, int]]]:
    """Return GPU-nanoseconds of cold starts by model, tenant and tier (as stamped); they add up to each model's own.

    A tenant's part is in proportion to its use of the model in the period: its GPU time, if engines measured all of
    the tenants' use, else its compute units. Corrections of closed periods are no use of this one. A model that no
    tenant used is absent: its cold starts are the operator's.
    """
    held: dict[str, int] = defaultdict(int)
    for engine in engines:
        if engine.period == period:
            held[engine.model] += engine.cold_start_gpu_ns
    used: dict[str, list[Tally]] = defaultdict(list)
    for tally in tallies:
        if tally.owner == "tenant" and tally.kind == "request" and tally.period == period and not tally.corrects:
            used[tally.model].append(tally)
    shares = {}
    for model, gpu_ns in sorted(held.items()):
        by_tenant = _use(used[model]) if gpu_ns else {}
        if by_tenant:
            of_tenants = divided(gpu_ns, [sum(tiers.values()) for tiers in by_tenant.values()])
            shares[model] = {
                tenant: dict(zip(tiers, divided(part, list(tiers.values())), strict=True))
                for (tenant, tiers), part in zip(by_tenant.items(), of_tenants, strict=True)
            }
    return shares


def _use(tallies: Sequence[Tally]) -> dict[str, dict[str, int]]:
    """Return the use of one model by tenant and tier, those above 0, in one unit for all."""
    estimated = any(tally.compute_units_micro > 0 and tally.measured in {"response", "estimate"} for tally in tallies)
    by_time = not estimated and any(tally.gpu_ns > 0 for tally in tallies)
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for tally in tallies:
        sums[tally.tenant][tally.tier] += tally.gpu_ns if by_time else tally.compute_units_micro
    used = {
        tenant: {tier: sums[tenant][tier] for tier in sorted(sums[tenant]) if sums[tenant][tier] > 0}
        for tenant in sorted(sums)
    }
    return {tenant: tiers for tenant, tiers in used.items() if tiers}
