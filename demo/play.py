"""The order of events: probes, refusals, traffic with the edit in its middle, and the last look at the records."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress

import aiohttp
from msgspec import Struct
from tenantry.core.apikeys import RANDOM_BYTES, digest_text, new_key
from tenantry.core.keyring import ADMIN_TOKEN
from tenantry.core.outcome import Outcome
from tenantry.core.rollout.conduct import Entry

from demo import rules_document
from demo.bookkeeping import read_books
from demo.crowd import crowd
from demo.observe import (
    POLL_SECONDS,
    SETTLE_SECONDS,
    EngineRecord,
    OutcomeFile,
    RolloutAdmin,
    SidecarMetrics,
    engine_count,
)
from demo.quota_story import spend
from demo.retrieval import Retrieval
from demo.retrieval_run import RetrievalRun
from demo.run import Arrival, Books, Call, Conversation, CrowdCall, EngineCount, Look, Probe, Refused, Reload, Run
from demo.scenario import MODEL, REFUSALS, SEED, Scenario, TenantPlan
from demo.stack import Stack
from demo.traffic import Client, refuse, work

PROBE_TENANT = "initech"
PROBE_REQUESTS = 3
PROBE_TOKENS = 32
LOOK_SECONDS = 0.5
LIVE_SECONDS = 20.0

Show = Callable[["Play"], None]


class RolloutNow(Struct, frozen=True, kw_only=True):
    """Where a rollout stands while the play is under way; `since_s` is when its state was first seen (Unix time)."""

    model: str
    candidate: str
    stable: str
    state: str
    since_s: float
    percent: float
    units: int
    all_units: int
    suspicion: float


class Play:
    """A run under way: what was recorded so far."""

    def __init__(self, scenario: Scenario, stack: Stack, http: aiohttp.ClientSession) -> None:
        self.scenario = scenario
        self.stack = stack
        self.begin_s = self.end_s = time.time()
        self.reload: Reload | None = None
        self.saved = False
        self._calls: list[Call] = []
        self._arrivals: list[Arrival] = []
        self._outcomes: list[Outcome] = []
        self._crowd_calls: list[CrowdCall] = []
        self._crowd_outcomes: list[Outcome] = []
        self._looks: list[Look] = []
        self._history: dict[str, tuple[Entry, ...]] = {}
        self._engine_counts: tuple[EngineCount, ...] = ()
        self._books = Books()
        self._refusals: list[Refused] = []
        self._models: dict[str, tuple[str, ...]] = {}
        self._probes: dict[str, Probe] = {}
        self._conversations: dict[str, Conversation] = {}
        self._http = http
        self._records = [EngineRecord(engine.version, engine.record_url) for engine in stack.engines]
        self._outcome_file = OutcomeFile(stack.outcomes)
        self._metrics = SidecarMetrics(http, stack.admin)
        self._admin = RolloutAdmin(stack.admin, stack.secrets)
        self._retrieval = Retrieval(stack, self._metrics)
        self._retrieved = RetrievalRun(not_run="it did not end")

    def record(self, total_s: float) -> Run:
        """Return what was recorded so far."""
        return Run(
            scenario=self.scenario,
            seed=SEED,
            versions=self.stack.versions,
            keys=self.stack.keys,
            engine_secret=self.stack.engine_secret,
            record_source=self.stack.record_source,
            calls=tuple(self._calls),
            arrivals=tuple(self._arrivals),
            outcomes=tuple(self._outcomes),
            refusals=tuple(self._refusals),
            models_listed=dict(self._models),
            probes=dict(self._probes),
            conversations=dict(self._conversations),
            reload=self.reload,
            traffic_s=(self.begin_s, self.end_s),
            total_s=total_s,
            crowd_calls=tuple(self._crowd_calls),
            crowd_outcomes=tuple(self._crowd_outcomes),
            looks=tuple(self._looks),
            history=dict(self._history),
            engine_counts=self._engine_counts,
            books=self._books,
            retrieval=self._retrieved,
        )

    def rollouts_now(self) -> list[RolloutNow]:
        """Return where the rollouts of the play stood at the last look."""
        now = []
        for plan in self.scenario.rollouts:
            looks = [look for look in self._looks if look.status.model == plan.model]
            if not looks:
                continue
            status = looks[-1].status
            now.append(
                RolloutNow(
                    model=plan.model,
                    candidate=plan.candidate.version,
                    stable=plan.stable.version,
                    state=status.state.value,
                    since_s=next(look.at_s for look in looks if look.status.state is status.state),
                    percent=plan.percent,
                    units=status.progress.units,
                    all_units=status.progress.all_units,
                    suspicion=max(0.0, status.progress.suspicion),
                )
            )
        return now

    async def run(self, until_s: float, show: Show) -> None:
        """Play everything; no request is sent after the Unix time `until_s`."""
        async with AsyncExitStack() as stack:
            clients: dict[str, Client] = {}
            for plan in self.scenario.tenants:
                clients[plan.name] = client = Client(plan, self.stack.base_url, self.stack.keys[plan.name])
                stack.push_async_callback(client.close)
            # From now on, since its clients take seconds to start, on a busy machine many.
            retrieving = asyncio.create_task(self._retrieval.run(until_s))
            stack.push_async_callback(_ended, retrieving)
            await self._probe(clients)
            for refusal in REFUSALS:
                key = self.stack.keys[refusal.tenant] if refusal.tenant else _nobodys_key()
                self._refusals.append(await refuse(refusal, self.stack.base_url, key))
            if (quota := self.scenario.quota) is not None:
                key = self.stack.keys[quota.tenant]
                self._refusals.append(await spend(quota, self.stack.base_url, key, self._crowd_calls.append))
            before = await self._metrics.conversations()
            self.begin_s, self.end_s = time.time(), until_s
            await self._traffic(clients, until_s, show)
            await retrieving
            after = await self._metrics.conversations()
            self._conversations = _since(before, after)
            self._retrieved = await self._retrieval.record()
            if self.reload is not None:
                for plan in self.scenario.joining:
                    self._models[plan.name] = await clients[plan.name].models()
            await self._complete()
        # Their lives end, so that the ledger has every nanosecond of them.
        await self.stack.stop_engines()
        reader, other = (plan.name for plan in self.scenario.tenants[:2])
        self._books = await read_books(
            self._http,
            f"http://{self.stack.ledger}",
            operator=(self.stack.secrets / ADMIN_TOKEN).read_text().strip(),
            tenant_key=self.stack.keys[reader],
            other_tenant=other,
        )

    async def _probe(self, clients: Mapping[str, Client]) -> None:
        """Send each kind of request alone, so that the sidecar's counters speak of that kind alone."""
        client = clients[PROBE_TENANT]
        for plan in self.scenario.founding:
            if plan.name != PROBE_TENANT:
                self._models[plan.name] = await clients[plan.name].models()

        async def models() -> int:
            self._models[PROBE_TENANT] = await client.models()
            return 0

        async def stream() -> int:
            return self._done(await client.stream("Count the messages.", PROBE_TOKENS)).chunks

        async def whole() -> int:
            return self._done(await client.whole("Count the messages.", PROBE_TOKENS)).chunks

        for kind, send in (("models", models), ("streamed", stream), ("whole", whole)):
            self._probes[kind] = await self._counted(send)

    async def _counted(self, send: Callable[[], Awaitable[int]]) -> Probe:
        before = await self._metrics.conversations()
        chunks = sum([await send() for _ in range(PROBE_REQUESTS)])
        after = await self._metrics.conversations()
        return Probe(requests=PROBE_REQUESTS, chunks=chunks, conversation=_since(before, after)[PROBE_TENANT])

    async def _traffic(self, clients: Mapping[str, Client], until_s: float, show: Show) -> None:
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._look_on(show))

            def work_for(plans: tuple[TenantPlan, ...]) -> list[asyncio.Task[None]]:
                return [
                    group.create_task(
                        work(clients[plan.name], self.scenario, random.Random(f"{SEED} {plan.name} {index}"), until_s,
                             self._calls.append)
                    )
                    for plan in plans
                    for index in range(plan.workers)
                ]  # fmt: skip

            workers = work_for(self.scenario.founding)
            workers.append(
                group.create_task(
                    crowd(self.scenario.rollouts, self.stack.base_url, self.stack.keys, seed=SEED, until_s=until_s,
                          done=self._crowd_calls.append)
                )
            )  # fmt: skip
            await asyncio.sleep((until_s - self.begin_s) / 2)
            await self._edit_rules()
            if self.reload is not None:
                workers += work_for(self.scenario.joining)
            await asyncio.wait(workers)
            looking.cancel()

    async def _look_on(self, show: Show) -> None:
        while True:
            await self._look()
            show(self)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        for record in self._records:
            self._arrivals += await record.new(self._http)
        for outcome in self._outcome_file.new():
            if not outcome.store:
                (self._outcomes if outcome.model == MODEL else self._crowd_outcomes).append(outcome)
        if self.scenario.rollouts:
            self._looks += await self._admin.looks()

    async def _edit_rules(self) -> None:
        """Save the edited document, and wait until it is live."""
        generation = await self._metrics.generation()
        changes = [
            rules_document.add_tenant(
                plan.name, tier=plan.tier, digest=digest_text(self.stack.keys[plan.name]), version=plan.expected
            )
            for plan in self.scenario.joining
        ]
        if (version := self.scenario.new_version) is not None:
            changes.append(rules_document.add_version(version, self.stack.engine(version).endpoint))
        saved_s, self.saved = time.time(), True
        rules_document.edit(self.stack.rules, *changes)
        while await self._metrics.generation() == generation:
            if time.time() > saved_s + LIVE_SECONDS:
                return
            await asyncio.sleep(POLL_SECONDS)
        self.reload = Reload(saved_s=saved_s, live_s=time.time())

    async def _complete(self) -> None:
        """Wait until the records hold every request that was answered."""
        wanted = sum(bool(call.request_id) for call in self._calls)
        of_crowd = sum(bool(call.request_id) for call in self._crowd_calls)
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._look()
                while (
                    len(self._outcomes) < wanted
                    or len(self._arrivals) < wanted
                    or len(self._crowd_outcomes) < of_crowd
                    or await self._copies_under_way(of_crowd)
                ):
                    await asyncio.sleep(POLL_SECONDS)
                    await self._look()
        for plan in self.scenario.rollouts:
            self._history[plan.model] = await self._admin.history(plan.model)

    async def _copies_under_way(self, of_crowd: int) -> bool:
        """Ask the engines of the rollouts what they counted; tell whether copies are not answered yet."""
        self._engine_counts = tuple([await engine_count(self._http, engine) for engine in self.stack.rollout_engines])
        return sum(count.requests - count.copies for count in self._engine_counts) < of_crowd

    def _done(self, call: Call) -> Call:
        self._calls.append(call)
        return call


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel a task that still runs."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _since(before: Mapping[str, Conversation], after: Mapping[str, Conversation]) -> dict[str, Conversation]:
    none = Conversation(messages=0, exchanges=0)
    return {tenant: conversation - before.get(tenant, none) for tenant, conversation in after.items()}


def _nobodys_key() -> str:
    return new_key(bytes(RANDOM_BYTES))
