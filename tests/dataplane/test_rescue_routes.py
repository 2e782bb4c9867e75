"""What Envoy makes of a rollout's requests: rescue by the stable version, copies to the candidate.

The sidecar's part is set by hand here: a request's body says which headers the last reply sets
(`steer`), so that these tests hold whatever decides when a request is a rollout's.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tenantry.adapters import sidecar
from tenantry.core.events import Event, Forward, Reply, RequestBody
from tenantry.core.session import Session

from dataplane.harness import KEYS, Json, Stack, rules, stack, until
from dataplane.upstream import CLOSE, CUT, LAST_CHUNK, OK, SSE_HEAD, Script, Seen, Step, Upstream, chunk, fixed, sse
from dataplane.wire import Connection, Response, chat, chat_body, request
from dataplane.wire_h2 import ask_h2

KEY = KEYS["acme"]
JSON = ("content-type", "application/json")
MAX_BODY_BYTES = 8 * 2**20
STREAM_IDLE_SECONDS = 2.0

HELPERS = ("x-tenantry-route", "x-tenantry-cluster", "x-tenantry-mirror-cluster")
PER_TRY = "x-envoy-upstream-rq-per-try-timeout-ms"


class Steered(Session):
    """The real session, which lets a request's body set headers of the last reply."""

    def on_event(self, event: Event, now: float) -> Reply:
        reply = super().on_event(event, now)
        if not isinstance(reply, Forward) or not isinstance(event, RequestBody):
            return reply
        steer: dict[str, str] = msgspec.json.decode(event.body).get("steer", {})
        headers = dict(reply.set_headers) | steer
        return msgspec.structs.replace(
            reply,
            set_headers=tuple(headers.items()),
            remove_headers=tuple(name for name in reply.remove_headers if name not in steer),
        )


def rescue(first_byte_seconds: float = 5.0, cluster: str = "chat-8b@1.5.0@1.4.0") -> dict[str, str]:
    milliseconds = f"{first_byte_seconds * 1000:.0f}"
    return {"x-tenantry-route": "rescue", "x-tenantry-cluster": cluster, PER_TRY: milliseconds}


def mirror(cluster: str = "chat-8b@1.4.0", candidate: str = "chat-8b@1.5.0") -> dict[str, str]:
    return {"x-tenantry-route": "mirror", "x-tenantry-cluster": cluster, "x-tenantry-mirror-cluster": candidate}


@dataclass(kw_only=True)
class Pair:
    """A stack whose chat-8b has stable 1.4.0 and candidate 1.5.0 on servers of their own."""

    stack: Stack
    stable: Upstream
    candidate: Upstream

    def play(self, name: str, candidate: Iterable[Step], stable: Iterable[Step] = (OK,)) -> None:
        """What requests with `script=name` get from each."""

        def script(steps: list[Step]) -> Script:
            return lambda _seen: steps

        self.candidate.scripts[name] = script(list(candidate))
        self.stable.scripts[name] = script(list(stable))

    def seen(self, mark: str) -> tuple[list[Seen], list[Seen]]:
        """What the candidate got, and what the stable version got."""
        return self.candidate.marked(mark), self.stable.marked(mark)

    def counts(self, mark: str) -> tuple[int, int]:
        candidate, stable = self.seen(mark)
        return len(candidate), len(stable)

    async def ask(self, mark: str, *, version: str = "HTTP/1.1", **members: Any) -> Response:
        body = chat_body(mark=mark, script=mark, **members) if "model" not in members else b""
        body = body or chat_body(members.pop("model"), mark=mark, script=mark, **members)
        if version == "HTTP/2":
            return await ask_h2(self.stack.address, headers=[JSON], body=body, key=KEY)
        return await self.stack.ask(request(headers=[JSON], body=body, key=KEY))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with Upstream().running() as candidate:

        def build(stable: Upstream) -> Json:
            limits = {"maxBodyBytes": MAX_BODY_BYTES, "streamIdleSeconds": STREAM_IDLE_SECONDS}
            document = rules(stable, limits=limits)
            here, there = {"endpoints": [stable.endpoint]}, {"endpoints": [candidate.endpoint]}
            gone = {"endpoints": ["127.0.0.1:1"]}
            rollout = {"candidate": "1.5.0"}
            models = {
                "chat-8b": {"stable": "1.4.0", "versions": {"1.4.0": here, "1.5.0": there}, "rollout": rollout},
                "gone-8b": {"stable": "1.4.0", "versions": {"1.4.0": here, "1.5.0": gone}, "rollout": rollout},
                "private-8b": document["models"]["private-8b"],
            }
            document["tenants"]["initech"]["pins"] = {"chat-8b": "1.5.0"}
            return document | {"models": models}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sidecar, "Session", Steered)
            async with stack(tmp_path_factory.mktemp("rescue"), build) as running:
                yield Pair(stack=running, stable=running.upstream, candidate=candidate)


def no_helpers(seen: Seen) -> bool:
    return not any(seen.header(name) for name in (*HELPERS, PER_TRY))


# --- rescue ---

RESCUED: dict[str, list[Step]] = {
    **{
        str(status): [fixed(b"{}", status=f"{status} No\r\nretry-after: 9")]
        for status in (401, 403, 404, 408, 429, 500, 502, 503, 504)
    },
    "reset": [CUT],
    "closed": [CLOSE],
    "reset amid the headers": [SSE_HEAD[:40], 0.05, CUT],
    "no HTTP": [b"SSH-2.0-OpenSSH_9.6\r\n\r\n"],
}


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("failure", RESCUED)
async def test_a_candidate_that_fails_before_its_first_byte_is_rescued(pair: Pair, failure: str, version: str) -> None:
    mark = f"{failure} {version}"
    pair.play(mark, RESCUED[failure])
    response = await pair.ask(mark, version=version, steer=rescue())
    assert (response.status, response.complete, response.body) == (200, True, OK.partition(b"\r\n\r\n")[2])
    (first,), (second,) = pair.seen(mark)
    assert [seen.header("x-envoy-attempt-count") for seen in (first, second)] == [[b"1"], [b"2"]]
    assert no_helpers(first)
    assert no_helpers(second)
    assert first.body == second.body
    assert first.header("host") == [pair.candidate.endpoint.encode()]
    assert second.header("host") == [pair.stable.endpoint.encode()]
    outcome = await pair.stack.outcome(response.request_id)
    assert (outcome["cluster"], outcome["attempts"]) == ("chat-8b@1.4.0", 2)
    assert (outcome["code"], outcome["ended"], outcome["flags"]) == (200, "completed", [])


async def test_a_candidate_that_refuses_connections_is_rescued(pair: Pair) -> None:
    response = await pair.ask("gone", model="gone-8b", steer=rescue(cluster="gone-8b@1.5.0@1.4.0"))
    assert (response.status, pair.counts("gone")) == (200, (0, 1))
    outcome = await pair.stack.outcome(response.request_id)
    assert (outcome["cluster"], outcome["attempts"], outcome["ended"]) == ("gone-8b@1.4.0", 2, "completed")


@pytest.mark.parametrize("first_byte_seconds", [0.1, 0.4])
async def test_a_candidate_that_hangs_is_rescued_in_the_time_that_the_sidecar_set(
    pair: Pair, first_byte_seconds: float
) -> None:
    mark = f"hung {first_byte_seconds}"
    pair.play(mark, [60.0])
    response = await pair.ask(mark, steer=rescue(first_byte_seconds))
    (hung,), (_,) = pair.seen(mark)
    assert response.status == 200
    await asyncio.wait_for(hung.left.wait(), 1)  # the candidate need not go on
    outcome = await pair.stack.outcome(response.request_id)
    assert (outcome["cluster"], outcome["attempts"]) == ("chat-8b@1.4.0", 2)
    # Envoy's timers count from the time its loop last read the clock: one fired 2 ms early on busy cores.
    assert first_byte_seconds - 0.02 <= outcome["ttfb_ms"] / 1000 < first_byte_seconds + 1


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_what_the_clients_own_request_causes_is_not_tried_again(pair: Pair, status: int) -> None:
    mark = f"client's {status}"
    pair.play(mark, [fixed(b'{"candidate":1}', status=f"{status} Bad")])
    response = await pair.ask(mark, steer=rescue())
    assert (response.status, response.json, pair.counts(mark)) == (status, {"candidate": 1}, (1, 0))
    outcome = await pair.stack.outcome(response.request_id)
    assert (outcome["cluster"], outcome["attempts"]) == ("chat-8b@1.5.0", 1)


async def test_a_stream_slower_than_the_first_byte_may_be_is_not_cut(pair: Pair) -> None:
    """`per_try_idle_timeout` would cut it: it goes on after the headers."""
    pair.play("slow", [SSE_HEAD, 0.5, *(step for _ in range(3) for step in (chunk(b"data: 1\n\n"), 0.4)), LAST_CHUNK])
    response = await pair.ask("slow", steer=rescue(0.2))
    assert (response.status, response.complete, response.body) == (200, True, b"data: 1\n\n" * 3)
    assert pair.counts("slow") == (1, 0)


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
async def test_after_the_first_byte_a_failure_is_the_clients_to_see(pair: Pair, version: str) -> None:
    """A second answer cannot follow half of the first."""
    mark = f"dies {version}"
    pair.play(mark, [SSE_HEAD, chunk(b"data: 1\n\n"), 0.05, CUT])
    response = await pair.ask(mark, version=version, steer=rescue())
    assert (response.status, response.complete, response.body) == (200, False, b"data: 1\n\n")
    assert pair.counts(mark) == (1, 0)
    outcome = await pair.stack.outcome(response.request_id)
    assert (outcome["cluster"], outcome["attempts"], outcome["ended"]) == ("chat-8b@1.5.0", 1, "failed")


async def test_when_both_fail_the_client_gets_the_stable_versions_answer(pair: Pair) -> None:
    pair.play("both", [CUT], [fixed(b'{"stable":1}', status="503 Full")])
    response = await pair.ask("both", steer=rescue())
    assert (response.status, response.json, pair.counts("both")) == (503, {"stable": 1}, (1, 1))
    outcome = await pair.stack.outcome(response.request_id)
    assert (outcome["cluster"], outcome["attempts"]) == ("chat-8b@1.4.0", 2)


async def test_the_time_to_the_first_byte_holds_for_the_stable_version_too(pair: Pair) -> None:
    """Envoy has one time for all tries: it must be longer than the stable version ever takes."""
    pair.play("slow both", [60.0], [0.6, OK])
    response = await pair.ask("slow both", steer=rescue(0.2))
    assert (response.status, response.error_code) == (504, "upstream_timeout")
    assert pair.counts("slow both") == (1, 1)


async def test_200_failures_at_once_are_all_rescued(pair: Pair) -> None:
    """With the default breakers of an aggregate 27 of 40 were not (`max_retries` is 3)."""
    pair.play("many", [0.2, fixed(b"{}", status="503 Full")])
    responses = await asyncio.gather(*(pair.ask("many", steer=rescue()) for _ in range(200)))
    assert {response.status for response in responses} == {200}
    assert pair.counts("many") == (200, 200)


def large(mark: str, steer: dict[str, str]) -> bytes:
    """A body of exactly the limit."""
    members: Json = {"mark": mark, "script": mark, "steer": steer}
    return chat_body(**members, pad="x" * (MAX_BODY_BYTES - len(chat_body(**members, pad=""))))


async def send_large(pair: Pair, version: str, mark: str, steer: dict[str, str]) -> Response:
    body = large(mark, steer)
    assert len(body) == MAX_BODY_BYTES
    if version == "HTTP/2":
        return await ask_h2(pair.stack.address, headers=[JSON], body=body, key=KEY)
    return await pair.stack.ask(request(headers=[JSON], body=body, key=KEY))


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
async def test_a_body_of_the_limit_is_rescued_and_copied(pair: Pair, version: str) -> None:
    mark = f"large rescue {version}"
    pair.play(mark, [fixed(b"{}", status="503 Full")])
    assert (await send_large(pair, version, mark, rescue())).status == 200
    (first,), (second,) = pair.seen(mark)
    assert first.body == second.body
    assert len(first.body) > MAX_BODY_BYTES  # stamped
    mark = f"large copy {version}"
    assert (await send_large(pair, version, mark, mirror())).status == 200
    await until(lambda: pair.counts(mark) == (1, 1))
    (copy,), (original,) = pair.seen(mark)
    assert copy.body == original.body
    pair.candidate.seen.clear()  # so that no later test decodes them again and again
    pair.stable.seen.clear()


# --- mirror ---


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
async def test_a_copy_is_the_request_that_the_stable_version_got_and_is_marked(pair: Pair, version: str) -> None:
    mark = f"copy {version}"
    pair.play(mark, [fixed(b'{"candidate":1}')])
    response = await pair.ask(mark, version=version, steer=mirror())
    assert response.body == OK.partition(b"\r\n\r\n")[2], "the client gets the stable version's answer"
    await until(lambda: pair.counts(mark) == (1, 1))
    (copy,), (original,) = pair.seen(mark)
    assert copy.line == original.line
    assert copy.body == original.body
    assert b'"cache_salt"' in copy.body  # stamped by the sidecar
    ours, theirs = dict(original.headers), dict(copy.headers)
    # The host is the endpoint's, never the client's: behind a name-routed gateway that would choose the backend.
    assert (ours.pop(b"host"), theirs.pop(b"host")) == (
        pair.stable.endpoint.encode(),
        pair.candidate.endpoint.encode(),
    )
    assert (ours.pop(b"x-tenantry-mirror", None), theirs.pop(b"x-tenantry-mirror")) == (None, b"1")
    peer = ours.pop(b"x-forwarded-for")
    assert theirs.pop(b"x-forwarded-for") == peer + b"," + peer
    assert ours == theirs
    assert {b"authorization", b"x-request-id", b"x-tenantry-tenant", b"x-tenantry-request-id"} <= theirs.keys()
    assert no_helpers(original)
    assert no_helpers(copy)
    outcome = await pair.stack.outcome(response.request_id)
    assert (outcome["cluster"], outcome["attempts"], outcome["flags"]) == ("chat-8b@1.4.0", 1, [])


UNWILLING: dict[str, list[Step]] = {
    "answers 503": [fixed(b"{}", status="503 Full")],
    "resets": [CUT],
    "hangs": [60.0],
    "is slow": sse([b"data: 1\n\n"] * 3, 0.3),
}


@pytest.mark.parametrize("failure", UNWILLING)
async def test_a_candidate_that_fails_on_copies_costs_the_client_nothing(pair: Pair, failure: str) -> None:
    pair.play(failure, UNWILLING[failure])
    begin = time.monotonic()
    response = await pair.ask(failure, steer=mirror())
    assert (response.status, response.complete) == (200, True)
    assert time.monotonic() - begin < 0.8
    await until(lambda: pair.counts(failure) == (1, 1))


@pytest.mark.parametrize("candidate", ["gone-8b@1.5.0", "gone-8b@9", ""], ids=["refuses", "unknown", "none"])
async def test_a_copy_that_cannot_be_sent_costs_the_client_nothing(pair: Pair, candidate: str) -> None:
    mark = f"no copy {candidate}"
    response = await pair.ask(mark, model="gone-8b", steer=mirror("gone-8b@1.4.0", candidate))
    assert (response.status, pair.counts(mark)) == (200, (0, 1))
    outcome = await pair.stack.outcome(response.request_id)
    assert (outcome["cluster"], outcome["attempts"], outcome["flags"]) == ("gone-8b@1.4.0", 1, [])


async def test_a_copy_is_not_waited_for_without_end(pair: Pair) -> None:
    """Of Envoy's own accord a copy to a candidate that hangs has no time limit, and would hold its body for ever."""
    pair.play("hung copy", [60.0])
    await pair.ask("hung copy", steer=mirror())
    await until(lambda: pair.counts("hung copy") == (1, 1))
    begin = time.monotonic()
    await asyncio.wait_for(pair.candidate.marked("hung copy")[0].left.wait(), STREAM_IDLE_SECONDS + 2)
    assert time.monotonic() - begin > STREAM_IDLE_SECONDS - 1


async def test_a_copy_outlives_its_original(pair: Pair) -> None:
    """Who leaves takes only their own answer along: the candidate's is still evidence."""
    pair.play("left", sse([b"data: 1\n\n"] * 4, 0.2), sse([b"data: 1\n\n"] * 20, 0.2))
    async with await Connection.open(pair.stack.address) as connection:
        await connection.send(chat(KEY, mark="left", script="left", steer=mirror()))
        await connection.head()
        await until(lambda: pair.counts("left") == (1, 1))
    (copy,), (original,) = pair.seen("left")
    await asyncio.wait_for(original.left.wait(), 2)
    await asyncio.sleep(1)
    assert not copy.left.is_set()


# --- everything else ---


async def test_a_pinned_request_reaches_its_version_once_whatever_comes_of_it(pair: Pair) -> None:
    pair.play("pinned", [fixed(b'{"candidate":1}', status="503 Full")])
    response = await pair.stack.ask(chat(KEYS["initech"], mark="pinned", script="pinned"))
    assert (response.status, response.json, pair.counts("pinned")) == (503, {"candidate": 1}, (1, 0))


async def test_a_client_cannot_choose_the_route_or_count_its_attempts(pair: Pair) -> None:
    forged = [*(rescue() | mirror()).items(), ("x-tenantry-mirror", "1"), ("x-envoy-attempt-count", "7")]
    forged += [("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "3"), ("x-envoy-hedge-on-per-try-timeout", "true")]
    pair.play("forged", [OK], [fixed(b"{}", status="503 Full")])
    response = await pair.stack.ask(chat(KEY, headers=forged, mark="forged", script="forged"))
    assert (response.status, pair.counts("forged")) == (503, (0, 1))
    (seen,) = pair.stable.marked("forged")
    assert seen.header("x-envoy-attempt-count") == [b"1"]
    assert not seen.header("x-tenantry-mirror")
    assert no_helpers(seen)
    assert response.header("x-envoy-attempt-count") is None


async def test_a_rollout_that_goes_live_can_be_rescued_at_once(pair: Pair) -> None:
    """A document is live once every Envoy has the aggregate, too."""
    before = pair.stack.document
    models = before["models"]
    rollout = {"rollout": {"candidate": "2"}}
    versions = {**models["private-8b"]["versions"], "2": {"endpoints": [pair.candidate.endpoint]}}
    pair.play("new rollout", [CUT])
    try:
        await pair.stack.live(
            before | {"models": models | {"private-8b": {"stable": "1", "versions": versions} | rollout}}
        )
        response = await pair.ask("new rollout", model="private-8b", steer=rescue(cluster="private-8b@2@1"))
        assert (response.status, pair.counts("new rollout")) == (200, (1, 1))
    finally:
        await pair.stack.live(before)
