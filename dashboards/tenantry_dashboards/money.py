"""What the time that is shown brought and cost, at the terms of now. Bills are the ledger's."""

from tenantry_dashboards.queries import raw, shown, total

COST_PER_GPU_HOUR = f"max by (cluster, currency) ({raw('tenantry_operator_cost_per_gpu_hour')})"


def of_gpu_seconds(gpu_seconds: str, by: str = "") -> str:
    """Price GPU time, a sum by cluster and `by`, at what an hour costs the operator. One currency a cluster."""
    labels = f"{by}, currency" if by else "currency"
    return total(f"{gpu_seconds} / 3600 * on (cluster) group_left (currency) {COST_PER_GPU_HOUR}", labels)


def cost_shown(by: str, *matchers: str) -> str:
    """Return what the operator pays for the GPU time that was charged to tenants."""
    used = shown(raw("tenantry_gpu_seconds_total", 'owner="tenant"', *matchers), f"cluster, {by}")
    return of_gpu_seconds(used, by)


def revenue_shown(by: str, *matchers: str) -> str:
    """Return what tenants owe: compute units and GPU hours, each at the price of the tier, if it has one.

    The two are told apart by a label before they are added, since `+` drops whoever has only one of them.
    """
    labels = _distinct(f"cluster, tier, {by}")
    units = _priced(
        shown(raw("tenantry_compute_units_total", 'owner="tenant"', *matchers), labels),
        "tenantry_price_per_compute_unit",
        "units",
    )
    hours = shown(raw("tenantry_gpu_seconds_total", 'owner="tenant"', *matchers), labels)
    gpu = _priced(f"{hours} / 3600", "tenantry_price_per_gpu_hour", "gpu")
    return total(f"{units} or {gpu}", _distinct(f"{by}, currency"))


def _priced(amount: str, price: str, part: str) -> str:
    prices = f"max by (cluster, tier, currency) ({raw(price)})"
    product = f"{amount} * on (cluster, tier) group_left (currency) {prices}"
    return f'label_replace({product}, "part", "{part}", "", "")'


def _distinct(labels: str) -> str:
    return ", ".join(dict.fromkeys(labels.split(", ")))
