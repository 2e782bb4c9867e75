"""How the stamp in a request's headers gets to EngineCore, and what an abort says."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from tenantry_vllm.middleware import STOPPED, note_stopped, outgoing, stamped
from tenantry_vllm.stamp import CARRIER, MAX_ATTEMPT, Stamp, read_carried, read_headers, read_stamp, write_carried

ID = "0123456789abcdef0123456789abcdef"
HEADERS = (
    (b"content-type", b"application/json"),
    (b"x-tenantry-tenant", b"acme"),
    (b"x-tenantry-tier", b"gold"),
    (b"x-tenantry-model", b"chat-8b"),
    (b"x-tenantry-version", b"1.4.0"),
    (b"x-tenantry-request-id", ID.encode()),
    (b"x-tenantry-mirror", b"1"),
    (b"x-envoy-attempt-count", b"2"),
)
STAMP = Stamp(tenant="acme", request_id=ID, tier="gold", model="chat-8b", version="1.4.0", attempt=2, mirror=True)


def test_the_headers_are_the_whole_stamp() -> None:
    assert read_headers(HEADERS) == STAMP
    assert read_carried(write_carried(STAMP)) == STAMP


@pytest.mark.parametrize("gone", [b"x-tenantry-tenant", b"x-tenantry-request-id"])
def test_without_tenant_or_id_there_is_none(gone: bytes) -> None:
    assert read_headers([pair for pair in HEADERS if pair[0] != gone]) is None
    assert read_headers([(name, b"" if name == gone else value) for name, value in HEADERS]) is None


@pytest.mark.parametrize(
    ("text", "attempt"),
    [
        (b"1", 1),
        (b"3", 3),
        (b"100", MAX_ATTEMPT),
        (b"101", 1),
        (b"0", 1),
        (b"-1", 1),
        (b"", 1),
        (b"2 ", 1),
        (b"9" * 99, 1),
    ],
)
def test_an_attempt_is_a_number_that_a_record_may_bear(text: bytes, attempt: int) -> None:
    stamp = read_headers([*HEADERS[:-1], (b"x-envoy-attempt-count", text)])
    assert stamp is not None
    assert stamp.attempt == attempt


def test_only_envoys_mark_makes_a_mirrored_copy() -> None:
    for value in (b"0", b"", b"true"):
        stamp = read_headers([(name, value if name == b"x-tenantry-mirror" else old) for name, old in HEADERS])
        assert stamp is not None
        assert not stamp.mirror


def test_what_was_carried_counts_before_the_body_which_alone_knows_the_adapter() -> None:
    body = {"tenant": "globex", "request_id": "other", "version": "9", "adapter": "acme-support"}
    stamp = read_stamp("embd-globex:" + "0" * 32 + "-0", body, write_carried(STAMP))
    assert stamp is not None
    assert (stamp.tenant, stamp.request_id, stamp.version) == ("acme", ID, "1.4.0")
    assert stamp.adapter == "acme-support"


async def test_each_engine_request_of_an_exchange_bears_its_stamp_and_a_number() -> None:
    sent: list[Any] = []

    async def route(_app: Any, _scope: Any, _receive: Any, _send: Any) -> None:
        # As vLLM does: some from the handler itself, some from tasks that it starts.
        add(sent)
        await asyncio.gather(asyncio.create_task(later(sent)), asyncio.create_task(later(sent)))

    await stamped(route)(None, _scope(), None, None)
    stamps = [read_carried(message.trace_headers[CARRIER]) for message in sent]
    assert [stamp.sequence for stamp in stamps] == [0, 1, 2]
    assert {(stamp.tenant, stamp.attempt, stamp.mirror) for stamp in stamps} == {("acme", 2, True)}
    add(sent)
    assert sent[-1].trace_headers is None  # after the exchange there is none


async def test_exchanges_side_by_side_do_not_mix() -> None:
    sent: dict[str, list[Any]] = {"acme": [], "globex": []}

    async def route(_app: Any, scope: Any, _receive: Any, _send: Any) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            add(sent[dict(scope["headers"])[b"x-tenantry-tenant"].decode()])

    call = stamped(route)
    await asyncio.gather(*(call(None, _scope(tenant), None, None) for tenant in sent))
    for tenant, messages in sent.items():
        stamps = [read_carried(message.trace_headers[CARRIER]) for message in messages]
        assert [(stamp.tenant, stamp.sequence) for stamp in stamps] == [(tenant, 0), (tenant, 1), (tenant, 2)]


async def test_an_application_inside_another_goes_on_counting() -> None:
    sent: list[Any] = []

    async def inner(_app: Any, _scope: Any, _receive: Any, _send: Any) -> None:
        add(sent)

    async def outer(app: Any, scope: Any, receive: Any, send: Any) -> None:
        add(sent)
        await stamped(inner)(app, scope, receive, send)

    await stamped(outer)(None, _scope(), None, None)
    assert [read_carried(message.trace_headers[CARRIER]).sequence for message in sent] == [0, 1]


@pytest.mark.parametrize("scope", [{"type": "lifespan"}, {"type": "http", "headers": [(b"host", b"here")]}])
async def test_what_bears_no_stamp_gets_none(scope: dict[str, Any]) -> None:
    sent: list[Any] = []

    async def route(_app: Any, _scope: Any, _receive: Any, _send: Any) -> None:
        add(sent)

    await stamped(route)(None, scope, None, None)
    assert sent[0].trace_headers is None


async def test_a_failing_route_leaves_no_stamp_behind() -> None:
    async def route(_app: Any, _scope: Any, _receive: Any, _send: Any) -> None:
        raise ValueError("the route's own")

    with pytest.raises(ValueError, match="own"):
        await stamped(route)(None, _scope(), None, None)
    sent: list[Any] = []
    add(sent)
    assert sent[0].trace_headers is None


async def test_trace_headers_of_the_client_stay() -> None:
    sent: list[Any] = []

    async def route(_app: Any, _scope: Any, _receive: Any, _send: Any) -> None:
        sent.append(outgoing("ADD", SimpleNamespace(trace_headers={"traceparent": "00-1-2-01"})))

    await stamped(route)(None, _scope(), None, None)
    assert sent[0].trace_headers.keys() == {"traceparent", CARRIER}


def test_an_abort_at_a_stop_string_is_marked_once() -> None:
    note_stopped(["a", "b"])
    assert outgoing("ABORT", ["a", "c"]) == ["a", "c", f"{STOPPED}a"]
    assert outgoing("ABORT", ["a"]) == ["a"]
    assert outgoing("ABORT", ["b"]) == ["b", f"{STOPPED}b"]
    assert outgoing("UTILITY", ["b"]) == ["b"]


def add(sent: list[Any]) -> None:
    sent.append(outgoing("ADD", SimpleNamespace(trace_headers=None)))


async def later(sent: list[Any]) -> None:
    await asyncio.sleep(0)
    add(sent)


def _scope(tenant: str = "acme") -> dict[str, Any]:
    headers = [(name, tenant.encode() if name == b"x-tenantry-tenant" else value) for name, value in HEADERS]
    return {"type": "http", "headers": headers}
