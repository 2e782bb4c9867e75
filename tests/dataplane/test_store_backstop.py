"""Whatever the sidecar fails to do, nothing of a store's answer passes unverified (the guard of `store_guard`).

Each request goes through two Envoys: the generated configuration, and the same without the guard, the control that
shows what would have passed.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio
from tenantry.adapters._pb import wire_pb2

from dataplane.stores import (
    GOOD,
    SAYS_NOTHING,
    SECRET,
    Conduct,
    Event,
    GrpcAnswer,
    Reply,
    StoreStack,
    bare_return,
    error,
    hang,
    plain_headers,
    response_body,
    rest,
    store_stack,
    verified,
    without_guard,
)
from dataplane.upstream import CUT, LAST_CHUNK, SSE_HEAD, Step, chunk
from dataplane.wire import Response

WITHHELD = "The store's answer could not be verified and was withheld."


def _head(status: str, *headers: bytes) -> bytes:
    return b"\r\n".join([f"HTTP/1.1 {status}".encode(), b"x-row: " + SECRET, *headers, b"", b""])


ANSWERS: dict[str, list[Step]] = {
    "one piece": [_head("200 OK", b"content-length: %d" % len(SECRET)) + SECRET],
    "chunks": [SSE_HEAD, chunk(SECRET), chunk(SECRET), LAST_CHUNK],
    "no body": [_head("204 No Content")],
    "an error": [_head("500 Internal Server Error", b"content-length: %d" % len(SECRET)) + SECRET],
    "a mark of its own": [
        _head("200 OK", b"x-tenantry-from-upstream: no", b"content-length: %d" % len(SECRET)) + SECRET
    ],
    "cut": [SSE_HEAD, chunk(SECRET), 0.1, CUT],
}
CALLS = (b"search", b"abort", b"late-abort")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StoreStack]:
    edits = {"generated": lambda _config: None, "unguarded": without_guard}
    async with store_stack(tmp_path_factory.mktemp("stores"), edits) as running:
        for name, steps in ANSWERS.items():
            running.rest_store.scripts[name] = lambda _seen, steps=steps: steps  # type: ignore[misc]
        yield running


@pytest.fixture
def stores(stack: StoreStack) -> Iterator[StoreStack]:
    yield stack
    stack.sidecar.conduct = GOOD


def leaks(answer: Response | GrpcAnswer) -> bool:
    """Whether anything of the store's is in it."""
    if isinstance(answer, GrpcAnswer):
        return SECRET in answer.everything
    return SECRET in answer.body or SECRET.decode() in repr((answer.headers, answer.trailers))


def says(word: str | bool | list[str]) -> Conduct:
    """A sidecar whose word for the answer is this instead of "yes"."""

    def body(event: Event) -> Reply:
        reply = response_body(event)
        reply.dynamic_metadata.Clear()
        reply.dynamic_metadata.update({"tenantry": {"verified": word}})
        return reply

    return {"response_headers": plain_headers, "response_body": body}


def unmarks(_event: Event) -> Reply:
    """Take the mark off: without it the answer would pass for the sidecar's own."""
    reply = Reply()
    reply.response_headers.response.header_mutation.remove_headers.append("x-tenantry-from-upstream")
    return reply


@dataclass(frozen=True, kw_only=True)
class Case:
    """`leaks`: whether the answers reach a client without the guard. `status`, `code`: what clients get with it."""

    conduct: Conduct
    leaks: bool = True
    status: int = 502
    code: grpc.StatusCode = grpc.StatusCode.PERMISSION_DENIED


FAILED = {"leaks": False, "status": 503, "code": grpc.StatusCode.UNAVAILABLE}

CASES = {
    "return after the request's answer": Case(conduct={"after request_body": True}),
    "return at response headers": Case(conduct={"response_headers": bare_return}),
    "return after response headers": Case(conduct={"response_headers": plain_headers, "after response_headers": True}),
    "return at response body": Case(conduct={"response_headers": plain_headers, "response_body": bare_return}),
    "answers, and says nothing": Case(conduct=SAYS_NOTHING),
    "verified: no": Case(conduct=says("no")),
    "verified: YES": Case(conduct=says("YES")),
    "verified: true": Case(conduct=says(True)),
    "verified: [yes]": Case(conduct=says(["yes"])),
    "takes the mark off": Case(conduct={"response_headers": unmarks, "after response_headers": True}, **FAILED),
    "error at response headers": Case(conduct={"response_headers": error}, **FAILED),
    "hangs at response headers": Case(conduct={"response_headers": hang}, **FAILED),
}


@pytest.mark.parametrize("what", CASES)
async def test_nothing_of_a_rest_answer_passes(stores: StoreStack, what: str) -> None:
    case = CASES[what]
    stores.sidecar.conduct = case.conduct
    answers = {
        name: await stores.rest(rest(name)) for name in ("one piece", "no body", "an error", "a mark of its own")
    }
    for name, answer in answers.items():
        assert (answer.status, answer.complete, leaks(answer)) == (case.status, True, False), name
        assert answer.header("x-tenantry-from-upstream") is None
        if case.status == 502:
            assert answer.json["error"]["message"] == WITHHELD
            assert answer.error_code == "unverified_answer"
            assert answer.request_id == "id-1"
    for name in ("chunks", "cut"):  # Envoy may see the cut before the guard has seen the answer
        answer = await stores.rest(rest(name))
        assert (answer.status in (502, 503), leaks(answer)) == (True, False), name
    control = await stores.rest(rest("one piece"), "unguarded")
    assert leaks(control) == case.leaks


@pytest.mark.parametrize("what", CASES)
async def test_nothing_of_a_grpc_answer_passes(stores: StoreStack, what: str) -> None:
    case = CASES[what]
    stores.sidecar.conduct = case.conduct
    for data in CALLS:
        answer = await stores.call(data)
        assert (answer.code, leaks(answer)) == (case.code, False), data
        assert "x-tenantry-from-upstream" not in dict(answer.metadata)
        if case.code is grpc.StatusCode.PERMISSION_DENIED:
            assert answer.details == WITHHELD
    assert leaks(await stores.call(b"search", "unguarded")) == case.leaks


@pytest.mark.parametrize("end", [error, hang])
async def test_a_sidecar_that_fails_at_the_body_is_503(stores: StoreStack, end: object) -> None:
    stores.sidecar.conduct = {"response_headers": plain_headers, "response_body": end}
    answer, called = await stores.rest(rest("one piece")), await stores.call()
    assert (answer.status, leaks(answer)) == (503, False)
    assert (called.code, leaks(called)) == (grpc.StatusCode.UNAVAILABLE, False)


async def test_a_verified_answer_passes(stores: StoreStack) -> None:
    own = b"row-of-its-own-tenant"
    for name, body in {"one piece": own, "chunks": own * 2, "an error": own, "a mark of its own": own}.items():
        answer = await stores.rest(rest(name))
        assert (answer.body, answer.complete) == (body, True), name
        assert answer.header("x-tenantry-from-upstream") is None
    assert (await stores.rest(rest("an error"))).status == 500, "the store's own status"
    assert (await stores.rest(rest("no body"))).status == 204
    called = await stores.call()
    assert (called.code, called.body) == (grpc.StatusCode.OK, own)
    aborted = await stores.call(b"abort")
    assert aborted.code is grpc.StatusCode.NOT_FOUND, "verified with its headers, which are all there is"


async def test_the_sidecar_does_not_see_the_mark(stores: StoreStack) -> None:
    """It removes what it does not know, and trying to remove this is an error."""
    stores.sidecar.events.clear()
    await stores.rest(rest("a mark of its own"))
    assert stores.sidecar.kinds == ["request_headers", "request_body", "response_headers", "response_body"]
    names = {entry.key for event in stores.sidecar.events for entry in event.response_headers.headers.headers}
    assert "x-row" in names
    assert "x-tenantry-from-upstream" not in names


async def test_of_a_stores_trailers_only_the_status_passes(stores: StoreStack) -> None:
    """No filter behind ext_proc reads them, and a row would fit."""
    answer = await stores.call(b"search")
    assert answer.code is grpc.StatusCode.OK
    assert [value for key, value in answer.metadata if key == "x-row"] == [SECRET.decode()], (
        "a header, none of them a trailer"
    )


async def test_headers_and_trailers_without_a_message_are_withheld(stores: StoreStack) -> None:
    """ext_proc has no body to show then, so that nothing can be verified."""
    stores.sidecar.events.clear()
    answer = await stores.call(b"late-abort")
    assert stores.sidecar.kinds == ["request_headers", "request_body", "response_headers"]
    assert (answer.code, answer.details) == (grpc.StatusCode.PERMISSION_DENIED, WITHHELD)


@pytest.mark.parametrize("at", ["response_headers", "response_body"])
async def test_the_sidecars_own_answer_passes(stores: StoreStack, at: str) -> None:
    def refuse(_event: Event) -> Reply:
        status = wire_pb2.HttpStatus(code=403)
        return Reply(
            immediate_response=wire_pb2.ImmediateResponse(
                status=status, body=b'{"error":"foreign row"}', details="tenantry_foreign_row"
            )
        )

    stores.sidecar.conduct = {"response_headers": plain_headers, at: refuse}
    answer, called = await stores.rest(rest("one piece")), await stores.call()
    assert (answer.status, answer.body, leaks(answer)) == (403, b'{"error":"foreign row"}', False)
    assert (called.code, called.details) == (grpc.StatusCode.PERMISSION_DENIED, '{"error":"foreign row"}')
    assert not leaks(called)


async def test_what_counts_is_the_last_word_before_the_answer_passes(stores: StoreStack) -> None:
    """So the sidecar must say `verified` with its last reply only: Envoy would believe it at the headers too."""
    stores.sidecar.conduct = {
        "response_headers": lambda event: verified(plain_headers(event)),
        "after response_headers": True,
    }
    assert leaks(await stores.rest(rest("one piece")))
