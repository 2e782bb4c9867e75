"""What is counted of the export. Labels: a destination, a verdict."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from tenantry.adapters.ledger.export.outbox import Standing
from tenantry.core.billing.export_settings import DestinationName


class ExportMetrics:
    """Labels are bounded by the code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter(
            "tenantry_export_events", "Events by what came of a send (taken, refused, not_taken, unknown), and parked "
            "without one", ("destination", "result"), registry=registry,
        )  # fmt: skip
        self._failures = Counter(
            "tenantry_export_ledger_failures", "Times the ledger's database failed the export", registry=registry
        )
        self._oldest, self._pending, self._parked, self._trouble = (
            Gauge(f"tenantry_export_{name}", text, ("destination",), registry=registry)
            for name, text in (
                ("oldest_pending_seconds", "Age of the oldest event that is still to be sent; 0: none"),
                ("pending", "Events that are still to be sent"),
                ("parked", "Events that wait for a person"),
                ("trouble", "1 while the destination takes nothing"),
            )
        )

    def events(self, destination: DestinationName, result: str, count: int = 1) -> None:
        """Count events by result."""
        if count:
            self._events.labels(destination, result).inc(count)

    def trouble(self, destination: DestinationName, *, now: bool) -> None:
        """Note whether the destination takes anything."""
        self._trouble.labels(destination).set(now)

    def ledger_failed(self) -> None:
        """Count a failure of the ledger's database."""
        self._failures.inc()

    def standing(self, destinations: Sequence[DestinationName], standing: Sequence[Standing], now_s: float) -> None:
        """Note how full the outbox is."""
        found = {each.destination: each for each in standing}
        for name in destinations:
            each = found.get(name, Standing(destination=name))
            self._pending.labels(name).set(each.pending)
            self._parked.labels(name).set(each.parked)
            self._oldest.labels(name).set(0 if each.oldest_s is None else max(now_s - each.oldest_s, 0))
