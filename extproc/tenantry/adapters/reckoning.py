"""Usage of models without a plugin: records made of the access log or of responses settle quotas and are billed."""

import time
from collections.abc import Callable
from typing import Literal

from tenantry.adapters.quotas.desk import Quotas
from tenantry.adapters.usage_metrics import UsageMetrics
from tenantry.core.estimates import estimate
from tenantry.core.outcome import Outcome
from tenantry.core.quota.claim import milliunits
from tenantry.core.response_usage import ResponseUsage
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules_billing import ModelProfile
from tenantry.core.usage import UsageRecord


class Reckoning:
    """Where such records come about. `book` returns the live rules, `send` takes records for the ledger, if any."""

    def __init__(
        self,
        book: Callable[[], RuleBook],
        quotas: Quotas,
        metrics: UsageMetrics,
        send: Callable[[UsageRecord], None] = lambda _record: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._book, self._quotas, self._send, self._clock = book, quotas, send, clock
        self._records = metrics.reckoned

    def outcome(self, outcome: Outcome) -> None:
        """Take in an entry of the access log, whose exchange may have been another process's."""
        record = estimate(outcome, self._clock())
        if record is not None:
            self._made(record, "log", "estimate")

    def response(self, usage: ResponseUsage) -> None:
        """Take in a response that ended; one of which nothing was seen had none, or Envoy did not show it."""
        record = usage.record(self._clock())
        if not usage.seen:
            self._records.labels("unseen").inc()
            self._send(record)  # its quota is settled with the estimate
        elif record.measured == "response":
            self._made(record, "response", "response")
        else:
            self._made(record, "response_size", "estimate")

    def _made(self, record: UsageRecord, source: str, result: Literal["response", "estimate"]) -> None:
        self._records.labels(source).inc()
        book = self._book()
        model, profile = book.model(record.model), book.profile(record.tenant, record.tier)
        amount = milliunits(
            ModelProfile() if model is None else model.profile,
            input_tokens=record.charge.input_tokens,
            cached_tokens=record.charge.cached_tokens,
            output_tokens=record.charge.output_tokens,
        )
        limits = None if profile is None else profile.limits
        self._quotas.told(record.request_id, record.tenant, limits, amount, result)
        self._send(record)
