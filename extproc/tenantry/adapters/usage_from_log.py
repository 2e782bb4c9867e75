"""Makes usage records of access-log entries, for models without a plugin: they settle quotas and go to the ledger."""

import time
from collections.abc import Callable

from tenantry.adapters.quotas.desk import Quotas
from tenantry.core.estimates import estimate
from tenantry.core.outcome import Outcome
from tenantry.core.quota.claim import milliunits
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules_billing import ModelProfile
from tenantry.core.usage import UsageRecord


class UsageFromLog:
    """A sink of outcomes. `book` returns the live rules, `send` takes records for the ledger, if there is one."""

    def __init__(
        self,
        book: Callable[[], RuleBook],
        quotas: Quotas,
        send: Callable[[UsageRecord], None] = lambda _record: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._book, self._quotas, self._send, self._clock = book, quotas, send, clock

    def __call__(self, outcome: Outcome) -> None:
        """Take in an outcome."""
        record = estimate(outcome, self._clock())
        if record is None:
            return
        book = self._book()
        model, profile = book.model(record.model), book.profile(record.tenant, record.tier)
        amount = milliunits(
            ModelProfile() if model is None else model.profile,
            input_tokens=record.input_tokens,
            output_tokens=record.output_tokens,
        )
        # The exchange may be another process's: this one is that of the Envoy worker whose log it is.
        limits = None if profile is None else profile.limits
        self._quotas.told(record.request_id, record.tenant, limits, amount, "estimate")
        self._send(record)
