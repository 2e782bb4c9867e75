"""What a person who prices a platform may have overlooked: notes on a valid rules document, never errors."""

from collections.abc import Iterator

from tenantry.core.rules import Rules
from tenantry.core.rules_billing import ModelProfile, Price, Quota
from tenantry.core.schema import join

LONGEST_PERIOD_MINUTES = 31 * 24 * 60


def billing_notes(rules: Rules) -> list[str]:
    """Return what stands out: work that costs nothing, weights and costs that nobody set, quotas that bind nobody."""
    return [*_prices(rules), *_weights(rules), *_quotas(rules)]


def _prices(rules: Rules) -> Iterator[str]:
    free = [name for name, tier in rules.tiers.items() if _costs_nothing(tier.price)]
    if len(free) == len(rules.tiers):
        yield "tiers: none has a price, so every invoice comes to 0"
        return
    for name in free:
        yield f"{join('tiers', name)}.price: there is none, so usage in this tier costs nothing"
    if not float(rules.billing.operator_gpu_hour):
        yield "billing.operatorGpuHour: 0, so the operator's statement shows GPU time without its cost"
    by_time = [name for name, tier in rules.tiers.items() if float(tier.price.gpu_hour)]
    for name, model in rules.models.items():
        if model.usage != "plugin" and by_time:
            yield (
                f"{join('models', name)}.usage: {model.usage}, which measures no GPU time: the gpuHour price of "
                f"{', '.join(by_time)} counts for nothing there"
            )


def _weights(rules: Rules) -> Iterator[str]:
    quotas = [tier.quota for tier in rules.tiers.values()] + [tenant.quota for tenant in rules.tenants.values()]
    counted = any(quotas) or any(float(tier.price.compute_unit) for tier in rules.tiers.values())
    for name, model in rules.models.items():
        if counted and model.profile == ModelProfile():
            yield (
                f"{join('models', name)}.profile: there is none, so 1,000 input tokens are a compute unit; "
                "`tenantry profile CONFIG.json` prints one"
            )


def _quotas(rules: Rules) -> Iterator[str]:
    for name, tier in rules.tiers.items():
        yield from _quota(f"{join('tiers', name)}.quota", tier.quota)
    for name, tenant in rules.tenants.items():
        yield from _quota(f"{join('tenants', name)}.quota", tenant.quota)


def _quota(path: str, quota: Quota | None) -> Iterator[str]:
    if quota is None:
        return
    minute, period = quota.compute_units_per_minute, quota.compute_units_per_period
    if minute is None and period is None:
        yield f"{path}: neither computeUnitsPerMinute nor computeUnitsPerPeriod is set, so it limits nothing"
    if minute is not None and period is not None and minute > period:
        yield f"{path}: computeUnitsPerMinute ({minute}) is more than computeUnitsPerPeriod ({period})"
    if minute is not None and period is not None and minute * LONGEST_PERIOD_MINUTES < period:
        yield f"{path}: a month at computeUnitsPerMinute ({minute}) never reaches computeUnitsPerPeriod ({period})"


def _costs_nothing(price: Price) -> bool:
    return not any(map(float, (price.compute_unit, price.gpu_hour, price.training_gpu_hour, price.cold_start_gpu_hour)))
