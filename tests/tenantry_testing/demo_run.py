"""A small recorded run of the demo, written down by hand, and what a page shows of one.

Three tenants: one with the beta flag, one that forges, and one that joins when the rules are edited.
"""

from html.parser import HTMLParser
from typing import Any

from msgspec.structs import replace
from tenantry.core.outcome import Outcome

from demo.run import Arrival, Call, Conversation, Probe, Refused, Reload, Run
from demo.scenario import EnginePlan, Scenario, TenantPlan
from tenantry_testing.demo_books import books_of
from tenantry_testing.demo_retrieval import clean_retrieval

KEYS = {"globex": "tk_globex", "hooli": "tk_hooli", "umbrella": "tk_umbrella"}
GLOBEX = TenantPlan(
    name="globex", tier="silver", priority=10, rule="beta: candidate", expected="1.5.0", workers=1, pause_s=0
)
HOOLI = TenantPlan(
    name="hooli", tier="bronze", priority=20, rule="no rule: stable", expected="1.4.0", workers=1, pause_s=0,
    forges=True,
)  # fmt: skip
UMBRELLA = TenantPlan(
    name="umbrella", tier="gold", priority=0, rule="pinned to 1.6.0", expected="1.6.0", workers=1, pause_s=0,
    joins_by_edit=True,
)  # fmt: skip
SCENARIO = Scenario(
    engine="stand-in",
    tenants=(GLOBEX, HOOLI, UMBRELLA),
    engines=(EnginePlan(version="1.4.0"), EnginePlan(version="1.5.0"), EnginePlan(version="1.6.0")),
    candidate="1.5.0",
    change="umbrella joins",
)


def call(tenant: str, number: int, sent_s: float, **fields: Any) -> Call:
    """A stream of 11 tokens: the first after 100 ms, the last after 600 ms."""
    facts: dict[str, Any] = {
        "request_id": f"id{number}",
        "route": "chat",
        "streamed": True,
        "ended_s": sent_s + 0.6,
        "status": 200,
        "ttft_ms": 100.0,
        "chunks": 12,
        "output_tokens": 11,
        "forged_headers": 3 if tenant == "hooli" else 0,
    }
    return Call(tenant=tenant, sent_s=sent_s, **{**facts, **fields})


def arrival(plan: TenantPlan, number: int, version: str, count: int) -> Arrival:
    """The request as tenantry sends it to an engine, whose `count`th it is."""
    headers = {
        "authorization": "Bearer engine-secret",
        "x-tenantry-tenant": plan.name,
        "x-tenantry-tier": plan.tier,
        "x-tenantry-model": "chat-8b",
        "x-tenantry-version": version,
        "x-tenantry-request-id": f"id{number}",
        "x-request-id": f"{plan.name}:id{number}",
    }
    body = {
        "model": "chat-8b",
        "messages": 20,
        "cache_salt": f"salt of {plan.name}",
        "priority": plan.priority,
        "vllm_xargs": {"tenant": plan.name, "version": version, "request_id": f"id{number}"},
    }
    path = "/v1/chat/completions"
    return Arrival(version=version, number=count, time_s=0, path=path, headers=tuple(headers.items()), body=body)


def outcome(plan: TenantPlan, number: int, version: str, ttfb_ms: float) -> Outcome:
    return Outcome(
        tenant=plan.name, tier=plan.tier, model="chat-8b", version=version, request_id=f"id{number}", reason="stable",
        code=200, ended="completed", flags=(), attempts=1, ttfb_ms=ttfb_ms, duration_ms=600, cluster="",
    )  # fmt: skip


def clean_run() -> Run:
    """Traffic from second 1000 to 1010; the rules are saved at 1005.0 and live at 1005.2."""
    two = Conversation(messages=4, exchanges=2)
    run = Run(
        scenario=SCENARIO,
        seed=7,
        versions={"envoy": "1.40.0"},
        keys=KEYS,
        engine_secret="engine-secret",
        record_source="the test",
        calls=(
            call("globex", 1, 1001.0),
            call("hooli", 2, 1002.0),
            call("globex", 3, 1005.1),  # while the edit was on its way
            call("hooli", 4, 1006.0, streamed=False, ttft_ms=None, chunks=0),
            call("umbrella", 5, 1007.0),
        ),
        arrivals=(
            arrival(GLOBEX, 1, "1.5.0", 1),
            arrival(HOOLI, 2, "1.4.0", 1),
            arrival(GLOBEX, 3, "1.5.0", 2),
            arrival(HOOLI, 4, "1.4.0", 2),
            arrival(UMBRELLA, 5, "1.6.0", 1),
        ),
        outcomes=(
            outcome(GLOBEX, 1, "1.5.0", 3.0),
            outcome(HOOLI, 2, "1.4.0", 5.0),
            outcome(GLOBEX, 3, "1.5.0", 4.0),
            outcome(HOOLI, 4, "1.4.0", 600.0),
            outcome(UMBRELLA, 5, "1.6.0", 2.0),
        ),
        refusals=(Refused(what="an unknown key", path="/v1/chat/completions", expected=401, status=401, message="no"),),
        models_listed={"globex": ("chat-8b",), "hooli": ("chat-8b",), "umbrella": ("chat-8b",)},
        probes={
            "streamed": Probe(requests=2, chunks=24, conversation=two),
            "whole": Probe(requests=2, chunks=0, conversation=two),
            "models": Probe(requests=2, chunks=0, conversation=Conversation(messages=2, exchanges=2)),
        },
        conversations={"globex": two, "hooli": two, "umbrella": Conversation(messages=2, exchanges=1)},
        reload=Reload(saved_s=1005.0, live_s=1005.2),
        traffic_s=(1000.0, 1010.0),
        total_s=14.0,
        retrieval=clean_retrieval(),
    )
    return replace(run, books=books_of(run))


class Figures(HTMLParser):
    """Collects (path, exact value, text) of every figure on the page, and every attribute by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, float, str]] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self._open: tuple[str, float] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.attributes.append((tag, given))
        if (path := given.get("data-of")) is not None:
            value = float(given.get("value") or given.get("data-value") or "nan")
            if tag == "data":
                self._open = (path, value)
            else:
                self.found.append((path, value, ""))

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.found.append((*self._open, data))
            self._open = None


def looked_up(document: Any, path: str) -> float:
    """The number at a path of report.json."""
    for key in path.split("/"):
        document = document[int(key)] if isinstance(document, list) else document[key]
    return float(document)
