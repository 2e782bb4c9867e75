"""The demo's report: what counts as held, what each figure means, and that the page shows report.json's own figures.

The small recorded run that they begin with is `tenantry_testing.demo_run`.
"""

import re
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tenantry_testing.demo_books import books_of
from tenantry_testing.demo_run import (
    GLOBEX,
    HOOLI,
    KEYS,
    UMBRELLA,
    Figures,
    arrival,
    call,
    clean_run,
    looked_up,
    outcome,
)

from demo.charts import NARROW, WIDE
from demo.measure import build, stream_speed
from demo.quantiles import quantiles
from demo.report import Report
from demo.report_html import page
from demo.run import Conversation, Probe, Run
from demo.scenario import TenantPlan


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
        ("x-envoy-attempt-count", "7"),
        ("x-tenantry-mirror", "1"),
        ("x-vllm-priority", "-1000"),
    ],
)
def test_a_forged_header_at_an_engine_is_counted(name: str, value: str) -> None:
    run = with_header(clean_run(), 1, name, value)

    assert build(run).tenants["hooli"].forged_headers_upstream == 1
    assert FORGED_HEADER in failed(run)


def test_envoys_own_count_of_attempts_is_no_forgery() -> None:
    run = with_header(clean_run(), 1, "x-envoy-attempt-count", "1")

    assert failed(run) == []
    assert FORGED_HEADER in failed(with_header(run, 1, "x-envoy-attempt-count", "1"))


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
    run = replace(run, books=books_of(run))

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
