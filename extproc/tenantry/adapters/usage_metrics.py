"""What is counted of usage records that the sidecar itself makes, and of their way to the ledger."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class UsageMetrics:
    """`source` is `log`, `response`, `response_size` or `unseen`; `result` is `sent`, `refused` or `dropped`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reckoned = Counter(
            "tenantry_usage_reckoned", "Usage records that the sidecar made, by source", ("source",), registry=registry
        )
        self.waiting = Gauge("tenantry_ledger_outbox_waiting", "Records not yet taken by the ledger", registry=registry)
        self.records = Counter(
            "tenantry_ledger_outbox_records", "Records for the ledger by result", ("result",), registry=registry
        )
        for result in ("sent", "refused", "dropped"):
            self.records.labels(result)
