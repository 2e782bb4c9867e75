"""The demo's report: what counts as held, what each figure means, and that the page shows report.json's own figures.

A small recorded run is written down here by hand: a tenant, one that forges, and one that joins when the rules are
edited.
"""

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tenantry.core.outcome import Outcome

from demo.charts import NARROW, WIDE
from demo.measure import build, stream_speed
from demo.quantiles import quantiles
from demo.report import Report
from demo.report_html import page
from demo.run import Arrival, Call, Conversation, Probe, Refused, Reload, Run
from demo.scenario import EnginePlan, Scenario, TenantPlan

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
    return Run(
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
    )


def failed(run: Run) -> list[str]:
    return [expectation.what for expectation in build(run).expectations if not expectation.held]


def changed(run: Run, index: int, **fields: Any) -> Run:
    """The run with one arrival changed."""
    arrivals = list(run.arrivals)
    arrivals[index] = replace(arrivals[index], **fields)
    return replace(run, arrivals=tuple(arrivals))


def served_by(run: Run, index: int, plan: TenantPlan, version: str, count: int) -> Run:
    """The run with one request at another engine, to which tenantry routed it."""
    arrivals, outcomes = list(run.arrivals), list(run.outcomes)
    arrivals[index] = arrival(plan, index + 1, version, count)
    outcomes[index] = replace(outcomes[index], version=version)
    return replace(run, arrivals=tuple(arrivals), outcomes=tuple(outcomes))


def with_header(run: Run, index: int, name: str, value: str) -> Run:
    return changed(run, index, headers=(*run.arrivals[index].headers, (name, value)))


def with_members(run: Run, index: int, **members: Any) -> Run:
    return changed(run, index, body={**run.arrivals[index].body, **members})


def test_a_clean_run_holds_every_expectation() -> None:
    report = build(clean_run())

    assert failed(clean_run()) == []
    assert report.ok
    assert report.failed_requests == 0


FORGED_HEADER = "no forged header reaches an engine"
FORGED_MEMBER = "no forged body member reaches an engine"
RECORD = "the engines' record is complete"
LOG = "the access log attributes every request to the tenant whose client sent it"
SALT = "each tenant has one cache salt, and no other has it"
RANK = "the engine ranks by tier, whatever a client asks for"
SECRET = "clients' keys stay outside; engines get their own secret"
MESSAGES = "a POST costs 2 ext_proc messages"
MODELS = "GET /v1/models lists a tenant's own models"
LIVE = "the edited rules go live while requests flow"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-tenantry-tenant", "hooli"),  # a second copy, though it says the truth
        ("X-Tenantry-Tenant", "acme"),
        ("x_tenantry_tenant", "acme"),
        ("x-tenantry-cluster", "chat-8b@1.5.0"),
        ("x-request-id", "acme:0"),
        ("x-envoy-retry-on", "5xx"),
        ("x-vllm-priority", "-1000"),
    ],
)
def test_a_forged_header_at_an_engine_is_counted(name: str, value: str) -> None:
    run = with_header(clean_run(), 1, name, value)

    assert build(run).tenants["hooli"].forged_headers_upstream == 1
    assert FORGED_HEADER in failed(run)


def test_a_header_that_names_another_tenant_is_counted_by_whose_client_sent_it() -> None:
    forged = tuple(
        (name, "globex" if name == "x-tenantry-tenant" else value) for name, value in clean_run().arrivals[1].headers
    )
    report = build(changed(clean_run(), 1, headers=forged))

    assert report.tenants["hooli"].forged_headers_upstream == 1
    assert report.tenants["globex"].forged_headers_upstream == 0


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (with_members(clean_run(), 1, priority=-1000), [FORGED_MEMBER, RANK]),
        (with_members(clean_run(), 1, vllm_xargs={"tenant": "acme"}), [FORGED_MEMBER]),
        (with_members(clean_run(), 1, cache_salt="acme"), [FORGED_MEMBER, SALT]),
        (with_members(clean_run(), 1, cache_salt="salt of globex"), [SALT]),
        (with_members(clean_run(), 1, user="my key is tk_hooli"), [SECRET]),
        (with_header(clean_run(), 1, "x-note", "tk_globex"), [SECRET]),
        (changed(clean_run(), 3, number=3), [RECORD]),
        (replace(clean_run(), arrivals=clean_run().arrivals[1:]), [RECORD]),
        (
            changed(clean_run(), 2, version="1.6.0", number=2),  # the engine's record against what log and stamp say
            [LOG, "globex is served by 1.5.0", FORGED_HEADER, FORGED_MEMBER],
        ),
        (served_by(clean_run(), 2, GLOBEX, "1.6.0", 2), ["globex is served by 1.5.0"]),
        (served_by(clean_run(), 4, UMBRELLA, "1.4.0", 3), ["umbrella is served by 1.6.0"]),
        (replace(clean_run(), arrivals=(*clean_run().arrivals, arrival(HOOLI, 9, "1.4.0", 3))), [RECORD]),
        (
            with_members(with_members(clean_run(), 1, cache_salt="salt of globex"), 3, cache_salt="salt of globex"),
            [SALT],
        ),
        (replace(clean_run(), outcomes=clean_run().outcomes[1:]), [LOG]),
        (replace(clean_run(), outcomes=(*clean_run().outcomes, clean_run().outcomes[0])), [LOG]),
        (replace(clean_run(), outcomes=(outcome(HOOLI, 1, "1.5.0", 1), *clean_run().outcomes[1:])), [LOG]),
        (replace(clean_run(), reload=None), [LIVE]),
        (replace(clean_run(), models_listed={**clean_run().models_listed, "hooli": ("chat-8b", "theirs")}), [MODELS]),
        (
            replace(clean_run(), refusals=(replace(clean_run().refusals[0], status=200),)),
            ["an unknown key is refused with 401"],
        ),
        (
            replace(
                clean_run(), conversations={**clean_run().conversations, "hooli": Conversation(messages=5, exchanges=2)}
            ),
            [MESSAGES],
        ),
        (
            replace(
                clean_run(),
                probes={
                    **clean_run().probes,
                    "streamed": Probe(requests=2, chunks=24, conversation=Conversation(messages=28, exchanges=2)),
                },
            ),
            ["streamed or not, it is the same number; a GET costs 1"],
        ),
    ],
)
def test_each_defect_fails_its_own_expectation(run: Run, expected: list[str]) -> None:
    assert failed(run) == expected


def test_an_edit_that_never_goes_live_fails_whatever_is_expected_of_the_tenant_that_joins_by_it() -> None:
    run = clean_run()
    run = replace(
        run, calls=run.calls[:4], arrivals=run.arrivals[:4], outcomes=run.outcomes[:4],
        conversations={name: run.conversations[name] for name in ("globex", "hooli")},
        models_listed={name: run.models_listed[name] for name in ("globex", "hooli")}, reload=None,
    )  # fmt: skip

    assert failed(run) == [RECORD, "umbrella is served by 1.6.0", RANK, MESSAGES, MODELS, LIVE]
    assert build(run).reload is None
    assert "umbrella" in page(build(run))


def test_a_failed_request_is_shown_with_its_error() -> None:
    calls = (*clean_run().calls, call("hooli", 6, 1008.0, request_id="", status=503, error="InternalServerError: 503"))
    report = build(replace(clean_run(), calls=calls))

    assert report.failed_requests == 1
    assert report.tenants["hooli"].errors == 1
    assert report.expectations[0].detail == "6 requests, 1 failed: InternalServerError: 503"
    assert not report.ok


def test_figures_of_a_tenant() -> None:
    hooli, umbrella = (build(clean_run()).tenants[name] for name in ("hooli", "umbrella"))

    assert (hooli.requests, hooli.streamed, hooli.chunks, hooli.output_tokens) == (2, 1, 12, 22)
    assert hooli.versions == {"1.4.0": 2}
    assert hooli.expected_version == "1.4.0"
    assert hooli.ttfb_ms.p50 == 5.0  # of the stream; the 600 ms are those of a whole answer
    assert hooli.forged_headers_sent == 6
    assert hooli.ext_proc_messages_per_request == 2
    assert (umbrella.versions, umbrella.expected_version) == ({"1.6.0": 1}, "1.6.0")


def test_a_candidates_share_is_of_all_requests_of_its_model() -> None:
    rollout = build(clean_run()).rollouts["chat-8b"]

    assert (rollout.candidate, rollout.candidate_requests, rollout.candidate_share) == ("1.5.0", 2, 0.4)


def test_the_edit_is_told_with_what_was_sent_while_it_was_on_its_way() -> None:
    reload = build(clean_run()).reload

    assert reload is not None
    assert (reload.at_s, reload.live_after_ms, reload.requests_during) == (5.0, 200.0, 1)


def test_quantiles_are_by_nearest_rank() -> None:
    assert quantiles(range(1, 101)).p50 == 50
    assert quantiles(range(1, 101)).p99 == 99
    assert quantiles([3.0, 1.0, 2.0]).p50 == 2.0
    assert quantiles([7.0]).p99 == 7.0
    assert quantiles([]).p50 is None


def test_speed_of_a_stream_counts_from_its_first_token() -> None:
    assert stream_speed([call("hooli", 1, 1000.0)]) == 20.0  # 10 tokens in the 500 ms after the first
    assert stream_speed([call("hooli", 1, 1000.0, ttft_ms=None)]) is None


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
    for key in path.split("/"):
        document = document[int(key)] if isinstance(document, list) else document[key]
    return float(document)


def test_every_figure_on_the_page_is_the_one_in_report_json() -> None:
    report = build(clean_run())
    document = msgspec.json.decode(msgspec.json.encode(report))
    figures = Figures(page(report)).found

    assert len(figures) > 80
    for path, value, text in figures:
        assert value == looked_up(document, path), path
        if text:
            shown = float(re.sub(r"[ ,a-z/]", "", text).rstrip("%")) / (100 if text.endswith("%") else 1)
            assert shown == pytest.approx(value, abs=0.5 if value > 1 else 0.001), path
    paths = {path for path, _, _ in figures}
    assert {"requests", "tenants/hooli/versions/1.4.0", "tenants/globex/ttfb_ms/p99", "reload/live_after_ms"} <= paths


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_columns_of_the_timeline_are_as_tall_as_their_counts(width: int) -> None:
    run = clean_run()
    calls = (*run.calls, call("hooli", 6, 1002.5))
    text = page(build(replace(run, calls=calls, arrivals=(*run.arrivals, arrival(HOOLI, 6, "1.4.0", 3)))))
    lanes = next(part for part in text.split("<svg")[1:] if f'viewBox="0 0 {width} ' in part)
    height = {
        given["data-of"]: float(str(given["height"]))
        for tag, given in Figures(lanes).attributes
        if tag == "rect" and "data-of" in given
    }

    assert height["timeline/tenants/hooli/0/versions/1.4.0"] == 40  # two requests in one second: the tallest
    assert height["timeline/tenants/globex/0/versions/1.5.0"] == 20


def test_bars_are_as_long_as_their_figures() -> None:
    text = page(build(clean_run()))
    width = {
        given["data-of"]: float(str(given["width"]))
        for tag, given in Figures(text).attributes
        if tag == "rect" and str(given.get("data-of")).startswith("probes/")
    }

    assert width["probes/streamed/ext_proc_messages"] * 6 == pytest.approx(width["probes/streamed/chunks"], rel=0.01)


def test_the_page_needs_nothing_else_and_says_what_it_is() -> None:
    report = build(clean_run())
    text = page(report)

    assert not re.search(r"<script|<link|<img|<iframe|url\(|@import|https?:|src=", text)
    assert "The engines are stand-ins: no model ran." in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert f"All {len(report.expectations)} expectations held" in text


def test_the_page_shows_no_key_and_no_salt() -> None:
    text = page(build(clean_run())) + msgspec.json.encode(build(clean_run())).decode()

    for secret in (*KEYS.values(), "engine-secret", "salt of"):
        assert secret not in text


def test_the_page_says_what_failed_and_escapes_what_it_quotes() -> None:
    calls = (*clean_run().calls, call("hooli", 6, 1008.0, request_id="", status=0, error="<b>gone & lost</b>"))
    report = build(replace(clean_run(), calls=calls))
    text = page(report)

    assert f"1 of {len(report.expectations)} expectations failed: no request failed" in text
    assert "&lt;b&gt;gone &amp; lost&lt;/b&gt;" in text
    assert "<b>" not in text


def test_report_json_reads_back() -> None:
    report = build(clean_run())

    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
