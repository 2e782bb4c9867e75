"""What is counted of rollouts. Part of `metrics`, whose registry and bounded labels it shares."""

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tenantry.core.outcome import Outcome
from tenantry.core.rollout.conduct import Entry
from tenantry.core.rollout.join import Joined, Mismatch
from tenantry.core.rollout.signals import Pair
from tenantry.core.rollout.standing import State
from tenantry.core.usage import UsageRecord

_DELAY_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60)


class Labels(Protocol):
    """Names that may be label values; any other becomes one."""

    def __getitem__(self, name: str) -> str:
        """Return the label of a name."""


class Shown(Struct, frozen=True, kw_only=True):
    """What the gauges show of one rollout. `scopes` are the states of tiers and tenants that are not splitting.

    Not `readable`: the state is not known, and nobody gets the candidate.
    """

    model: str
    candidate: str
    state: State
    readable: bool
    scopes: tuple[State, ...]
    percent: float
    realised_share: float
    suspicion: float
    held: int
    pinned: int


class RolloutMetrics:
    """Counters are told what happens; gauges are set when somebody scrapes."""

    def __init__(self, registry: CollectorRegistry, tenants: Labels, models: Labels) -> None:
        self._registry, self._tenants, self._models = registry, tenants, models
        self._requests = self._counter(
            "requests",
            "Requests of a rollout by assigned version and how they ended",
            ("tenant", "model", "arm", "ended"),
        )
        self._rescued = self._counter(
            "rescued", "Requests of the candidate that went to the stable version too", ("tenant", "model")
        )
        self._observed = self._counter(
            "observations", "What guards were shown, with or without the engine's record", ("model", "kind", "record")
        )
        self._dropped = self._counter("observations_dropped", "Evidence lost because a queue was full", ())
        self._unjoined = self._counter(
            "joins_dropped", "Requests and records that waited for one another and were too many", ()
        )
        self._transitions = self._counter("transitions", "Reverts, alarms, promotions and the like", ("model", "kind"))
        self._mismatches = self._counter(
            "version_mismatches", "Usage records of engines that run another version than assigned", ("model",)
        )
        self._records = Counter(
            "tenantry_usage_records", "Usage records posted by engines", ("result",), registry=registry
        )
        self._delay = Histogram(
            "tenantry_usage_record_delay_seconds", "From the end of a request to its record's arrival",
            buckets=_DELAY_SECONDS, registry=registry,
        )  # fmt: skip
        self._state = self._gauge(
            "state", "1 for the state that the fleet is in, if it is known", ("model", "candidate", "state")
        )
        self._scopes = self._gauge("scopes", "Tiers and tenants by state, splitting ones apart", ("model", "state"))
        self._percent = self._gauge("percent", "Percent of each tenant's units for the candidate", ("model",))
        self._share = self._gauge("realised_share", "Candidate units over all units of this chapter", ("model",))
        self._suspicion = self._gauge(
            "suspicion", "The fleet's largest log e-value over its threshold; 1 is a verdict", ("model",)
        )
        self._held = self._gauge("held_verdicts", "Verdicts held back as the stable version fails too", ("model",))
        self._pinned = self._gauge("pinned_to_reverted", "Tenants pinned to a version that was reverted", ("model",))
        self._store = Gauge(
            "tenantry_state_store_up", "0 while a state store cannot be read or written", registry=registry
        )
        self._store.set(1)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"tenantry_rollout_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"tenantry_rollout_{name}", text, labels, registry=self._registry)

    def request(self, outcome: Outcome) -> None:
        """Count the end of an exchange that was part of a rollout."""
        if outcome.trial is None:
            return
        tenant, model = self._tenants[outcome.tenant], self._models[outcome.model]
        self._requests.labels(tenant, model, outcome.trial.arm, outcome.ended).inc()
        if outcome.rescued:
            self._rescued.labels(tenant, model).inc()

    def observed(self, model: str, joined: Joined) -> None:
        """Count what a guard will be shown."""
        kind = "pair" if isinstance(joined.seen, Pair) else "split"
        yes, no = (self._observed.labels(self._models[model], kind, record) for record in ("yes", "no"))
        (no if joined.without_record else yes).inc()

    def dropped(self, requests: int = 1) -> None:
        """Count evidence that is lost."""
        self._dropped.inc(requests)

    def unjoined(self, requests: int) -> None:
        """Count what could wait for its other half no longer."""
        self._unjoined.inc(requests)

    def transition(self, entry: Entry) -> None:
        """Count what a rollout's history has a new line of."""
        self._transitions.labels(self._models[entry.model], entry.kind).inc()

    def mismatch(self, mismatch: Mismatch) -> None:
        """Count a record from an engine that runs another version than its endpoints are listed under."""
        self._mismatches.labels(self._models[mismatch.model]).inc()

    def record(self, record: UsageRecord, now_s: float) -> None:
        """Count a usage record and how late it came."""
        self._records.labels("accepted").inc()
        self._delay.observe(max(now_s - record.ended_s, 0.0))

    def records_refused(self) -> None:
        """Count a post of records that was not understood or not allowed."""
        self._records.labels("refused").inc()

    def store(self, *, up: bool) -> None:
        """Note whether the state stores answer."""
        self._store.set(up)

    def show(self, rollouts: Iterable[Shown]) -> None:
        """Set the gauges; rollouts that are no more leave them."""
        gauges = (self._state, self._scopes, self._percent, self._share, self._suspicion, self._held, self._pinned)
        for gauge in gauges:
            gauge.clear()
        for each in rollouts:
            model = self._models[each.model]
            for state in State:
                self._state.labels(model, each.candidate, state.value).set(each.readable and each.state is state)
                if state is not State.SPLITTING:
                    self._scopes.labels(model, state.value).set(each.scopes.count(state))
            self._percent.labels(model).set(each.percent)
            self._share.labels(model).set(each.realised_share)
            self._suspicion.labels(model).set(each.suspicion)
            self._held.labels(model).set(each.held)
            self._pinned.labels(model).set(each.pinned if each.state is State.REVERTED else 0)
