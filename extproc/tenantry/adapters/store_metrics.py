"""What is counted of stores themselves: whether they are open, proofs, and what was made in them."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class StoreMetrics:
    """Labels are bounded by the rules: a store's name, a few results and kinds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._safe = Gauge(
            "tenantry_store_safe", "1 while a store is shown to keep tenants apart, and open", ("store",),
            registry=registry,
        )  # fmt: skip
        self._proofs = Counter(
            "tenantry_store_proofs", "Proofs by result: safe, unsafe, failed (none to be had)", ("store", "result"),
            registry=registry,
        )  # fmt: skip
        self._provisioned = Counter(
            "tenantry_store_provisioned", "Databases and partitions made for tenants", ("store", "kind"),
            registry=registry,
        )  # fmt: skip

    def safe(self, store: str, *, safe: bool) -> None:
        """Note whether a store is open."""
        self._safe.labels(store).set(safe)

    def gone(self, store: str) -> None:
        """Note that a store is not in the rules any more."""
        self._safe.remove(store)

    def proof(self, store: str, result: str) -> None:
        """Count a proof."""
        self._proofs.labels(store, result).inc()

    def provisioned(self, store: str, kind: str) -> None:
        """Count a database or partition that was made."""
        self._provisioned.labels(store, kind).inc()
