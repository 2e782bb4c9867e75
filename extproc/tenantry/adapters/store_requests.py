"""Requests to vector stores, counted, and each refusal written down (without a word of the client's)."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from tenantry.adapters import logs
from tenantry.core.outcome import Outcome
from tenantry.core.session import Session, State
from tenantry.core.vector.stores import OPERATIONS

FOREIGN_ROW, UNREADABLE = "foreign_row", "unreadable_answer"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class StoreRequests:
    """What became of requests to stores.

    Labels are bounded: tenants by `labels`, stores by the rules that were live, operations by the protocols' tables.
    `tenantry_store_foreign_rows_total` is an alarm: two locks failed, and the third one held.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        of_tenant = ("tenant", "store")
        self._requests = Counter(
            "tenantry_store_requests",
            "Requests to vector stores (passed: the answer was verified; cut: it never came)",
            (*of_tenant, "operation", "result"),
            registry=registry,
        )
        self._refused = Counter(
            "tenantry_store_refusals", "Requests to stores answered here", (*of_tenant, "code"), registry=registry
        )
        self._rows = Counter("tenantry_store_rows_verified", "Rows looked at", of_tenant, registry=registry)
        self._foreign = Counter(
            "tenantry_store_foreign_rows", "Answers withheld for a row of another tenant", of_tenant, registry=registry
        )
        self._seconds = Histogram(
            "tenantry_store_request_duration_seconds",
            "To the last byte of a store's answer",
            ("store", "operation"),
            buckets=_SECONDS,
            registry=registry,
        )

    def closed(self, session: Session, tenant: str) -> None:
        """Note the end of an exchange with a store; `tenant` is its label."""
        exchange = session.store
        if exchange is None or session.tenant is None:
            return
        store, operation = exchange.store_of.name, exchange.operation
        refusal = session.refusal
        foreign = self._foreign.labels(tenant, store)  # there with the first request: 0 is a statement
        if session.state is State.VERIFIED:
            self._rows.labels(tenant, store).inc(exchange.rows)
            result = "passed"
        elif refusal is None:
            result = "cut"
        else:
            result = "refused"
            self._refused.labels(tenant, store, refusal.code).inc()
            name = session.tenant.profile.name
            if refusal.code in (FOREIGN_ROW, UNREADABLE):
                result = "withheld"
            if refusal.code == FOREIGN_ROW:
                foreign.inc()
                logs.get().critical("a store answered with a row of another tenant",
                                    tenant=name, store=store, operation=operation)  # fmt: skip
            else:
                logs.get().warning("store request refused",
                                   tenant=name, store=store, operation=operation, code=refusal.code)  # fmt: skip
        self._requests.labels(tenant, store, operation, result).inc()

    def ended(self, outcome: Outcome) -> None:
        """Note how long a request took that was passed on, as Envoy's log tells."""
        operation = outcome.operation if outcome.operation in OPERATIONS else "other"
        self._seconds.labels(outcome.store, operation).observe(outcome.duration_ms / 1e3)
