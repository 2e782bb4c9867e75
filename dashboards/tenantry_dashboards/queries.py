"""PromQL in pieces. A selector names its job and cluster, so that nothing else with such a name is counted.

`job` is a hidden variable: whose jobs are called otherwise changes it once. What a recording rule wrote has no job.
Windows are `$__rate_interval` for lines and `$__range`, the time that is shown, for single values.
"""

from msgspec import Struct

MODEL = 'model=~"$model"'
TENANT = 'tenant=~"$tenant"'

TOP = 10
"""Lines of a panel by tenant: more cannot be told apart."""

SIDECAR = 'tenantry_rules_generation{job=~"$job", cluster=~"$cluster"}'
LEDGER = 'tenantry_ledger_newest_record_timestamp_seconds{job=~"$job", cluster=~"$cluster"}'
ENGINE = 'tenantry_spool_waiting_records{job=~"$job", cluster=~"$cluster"}'
ENVOY = 'envoy_server_live{job=~"$job", cluster=~"$cluster"}'
"""Series that are there whenever such a process is scraped: see `quiet`."""


class Query(Struct, frozen=True, kw_only=True):
    """One query of a panel. `legend` names its lines; exemplars are points that lead to a request."""

    expr: str
    legend: str = ""
    exemplar: bool = False


def raw(metric: str, *matchers: str) -> str:
    """Select a scraped metric."""
    return _selector(metric, 'job=~"$job"', 'cluster=~"$cluster"', *matchers)


def recorded(metric: str, *matchers: str) -> str:
    """Select what a recording rule wrote."""
    return _selector(metric, 'cluster=~"$cluster"', *matchers)


def _selector(metric: str, *matchers: str) -> str:
    return f"{metric}{{{', '.join(matchers)}}}"


def total(expr: str, by: str = "") -> str:
    """Add up over all but some labels."""
    return f"sum by ({by}) ({expr})" if by else f"sum({expr})"


def most(expr: str, by: str = "") -> str:
    """Take the largest over all but some labels: replicas that tell the same count once."""
    return f"max by ({by}) ({expr})" if by else f"max({expr})"


def rate(selector: str, by: str = "") -> str:
    """Per second, for a line."""
    return total(f"rate({selector}[$__rate_interval])", by)


def shown(selector: str, by: str = "") -> str:
    """How much in the time that is shown, for a single value."""
    return total(f"increase({selector}[$__range])", by)


def happened(selector: str, by: str = "") -> str:
    """Count rare events in the time that is shown.

    The first event makes its series, which begins at 1, and `increase` takes that for no increase: a series that
    was not there when the time began counts whole.
    """
    return total(f"{selector} unless {selector} offset $__range or increase({selector}[$__range])", by)


def quantile(share: float, metric: str, *matchers: str, by: str = "") -> str:
    """Take a quantile of a histogram, for a line."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, {rate(raw(f'{metric}_bucket', *matchers), labels)})"


def quantile_shown(share: float, metric: str, *matchers: str, by: str = "") -> str:
    """Take a quantile of a histogram over the time that is shown; of an empty one there is none (not NaN)."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, {shown(raw(f'{metric}_bucket', *matchers), labels)}) >= 0"


def mean(metric: str, *matchers: str, by: str = "") -> str:
    """Take the mean of a histogram, for a line."""
    return f"{rate(raw(f'{metric}_sum', *matchers), by)} / {rate(raw(f'{metric}_count', *matchers), by)}"


def ratio(part: str, whole: str) -> str:
    """Divide; where there is nothing to share, there is no share."""
    return f"({part}) / ({whole} > 0)"


def top(expr: str, by: str, ranking: str) -> str:
    """Keep the lines whose `ranking` is highest at the end of the time that is shown.

    `topk` alone picks others at each step, and the lines fall to pieces.
    """
    return f"{expr} and on ({by}) topk({TOP}, {ranking})"


def shown_at_end(selector: str, by: str) -> str:
    """For `top`: how much in the time that is shown, the same at each step."""
    return total(f"increase({selector}[$__range] @ end())", by)


def quiet(expr: str, witness: str, by: str = "") -> str:
    """Read a metric of rare events: zero if none happened, nothing if the process is not scraped.

    A counter with labels has no series before its first event. `witness` is a series of the process that always is.
    """
    zero = f"0 * max({witness})"
    if by:
        zero = f'label_replace({zero}, "{by}", "none", "", "")'
    return f"{expr} or on () {zero}"


def absent_as_zero(expr: str, all_of: str) -> str:
    """Show zero for whatever `all_of` has and `expr` has not; both with the same labels."""
    return f"{expr} or 0 * {all_of}"
