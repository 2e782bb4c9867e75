"""Which requests may reach an engine at all, and which headers go with them."""

import json

import pytest
from tenantry.core import model_api
from tenantry.core.chat import Api
from tenantry.core.errors import (
    BadRequestError,
    MethodNotAllowedError,
    NotFoundError,
    RequestRefusedError,
    TooLargeError,
    UnsupportedMediaError,
)
from tenantry.core.events import Header
from tenantry_testing.documents import book

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("method", "path", "api"),
    [
        ("POST", "/v1/chat/completions", Api.CHAT),
        ("POST", "/v1/completions", Api.COMPLETIONS),
        ("POST", "/v1/embeddings", Api.EMBEDDINGS),
        ("POST", "/v1/responses", Api.RESPONSES),
        ("GET", "/v1/models", None),
    ],
)
def test_the_allow_list_is_this(method: str, path: str, api: Api | None) -> None:
    assert model_api.match(method, path) is api
    assert len(model_api.ROUTES) == 5


@pytest.mark.parametrize(
    "path",
    [
        # what engines also serve, to whoever asks
        "/abort_requests", "/sleep", "/wake_up", "/update_weights", "/v1/load_lora_adapter", "/tokenize", "/metrics",
        "/v1/responses/resp_1", "/v1/responses/resp_1/cancel", "/v1/models/chat-8b", "/v1/audio/transcriptions",
        "/health",
        # the same route, nearly
        "", "/", "*", "/v1", "/v1/chat/completions/", "//v1/chat/completions", "/v1//chat/completions",
        "v1/chat/completions",
        "/V1/chat/completions", "/v1/chat/Completions", "/v1/chat/completions ", " /v1/chat/completions",
        "/v1/chat%2Fcompletions", "/v1%2fchat/completions", "/v1/chat%2Fcompletions?x", "/v1/chat\\completions",
        "/v1/./chat/completions", "/v1/x/../chat/completions", "/v1/chat/completions;x", "/v1/chat/completions#x",
        "/v1/chat/completions%00", "/v1/chat/completions\n", "http://host/v1/chat/completions",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_every_other_path_does_not_exist(method: str, path: str) -> None:
    with pytest.raises(NotFoundError, match=r"no such route here\. Known: POST /v1/chat/completions, ") as caught:
        model_api.match(method, path)
    assert (caught.value.code, caught.value.http_status) == ("unknown_route", 404)


@pytest.mark.parametrize(
    "method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "CONNECT", "TRACE", "post", "POST ", ""]
)
def test_every_other_method_is_refused(method: str) -> None:
    for path in ("/v1/chat/completions", "/v1/chat/completions?x"):
        with pytest.raises(MethodNotAllowedError, match="/v1/chat/completions takes POST only") as caught:
            model_api.match(method, path)
        assert (caught.value.http_status, caught.value.code) == (405, "method_not_allowed")
    with pytest.raises(MethodNotAllowedError, match="/v1/models takes GET only"):
        model_api.match("POST", "/v1/models")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/chat/completions?"), ("GET", "/v1/models?x=1"), ("GET", "/v1/models?/")]
)
def test_a_query_string_is_refused(method: str, path: str) -> None:
    with pytest.raises(BadRequestError, match="takes no query string") as caught:
        model_api.match(method, path)
    assert caught.value.code == "query_not_allowed"


@pytest.mark.parametrize(
    "header",
    [
        ("content-type", b"application/json"),
        ("content-type", b" Application/JSON ; charset=utf-8"),
        ("content-encoding", b"identity"),
        ("content-encoding", b" Identity "),
        ("content-encoding", b""),
        ("content-length", b"1048576"),
        ("content-length", b"not a number"),  # Envoy's to refuse
        ("x-content-type", b"text/plain"),
    ],
)
def test_a_body_that_can_be_read(header: Header) -> None:
    model_api.check_body_headers([header], MIB)
    model_api.check_body_headers([], MIB)  # a client may announce nothing


@pytest.mark.parametrize(
    ("header", "error", "code"),
    [
        (("content-encoding", b"gzip"), UnsupportedMediaError, "unsupported_encoding"),
        (("content-encoding", b"identity, gzip"), UnsupportedMediaError, "unsupported_encoding"),
        (("content-type", b"text/plain"), UnsupportedMediaError, "unsupported_media_type"),
        (("content-type", b"multipart/form-data; boundary=application/json"), UnsupportedMediaError,
         "unsupported_media_type"),
        (("content-type", b"application/jsonx"), UnsupportedMediaError, "unsupported_media_type"),
        (("content-type", b""), UnsupportedMediaError, "unsupported_media_type"),
        (("content-length", b"1048577"), TooLargeError, "body_too_large"),
        (("content-length", b"9" * 5000), TooLargeError, "body_too_large"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_refused_before_it_is_sent(
    header: Header, error: type[RequestRefusedError], code: str
) -> None:
    good: Header = ("content-type", b"application/json")
    for headers in ([header], [good, header], [header, good]):
        with pytest.raises(error) as caught:
            model_api.check_body_headers(headers, MIB)
        assert caught.value.code == code
        assert caught.value.http_status == {UnsupportedMediaError: 415, TooLargeError: 413}[error]


def test_the_limit_itself_is_allowed() -> None:
    model_api.check_body_size(MIB, MIB)
    with pytest.raises(TooLargeError, match="larger than 1048576 bytes"):
        model_api.check_body_size(MIB + 1, MIB)


def removed(*names: str, forwarded: frozenset[str] = frozenset()) -> tuple[str, ...]:
    return model_api.removed_headers([(name, b"x") for name in names], forwarded)


def test_headers_are_default_deny() -> None:
    """Invariant 2: what an engine might obey tomorrow does not reach it today."""
    engine = ("x-vllm-priority", "x-data-parallel-rank", "x-session-id", "x-request-id", "x-made-up-next-year")
    mesh = (
        "x-envoy-retry-on",
        "x-forwarded-client-cert",
        "x-tenantry-tenant",
        "connection",
        "baggage",
        "transfer-encoding",
    )
    assert removed(*engine, *mesh) == engine + mesh


def test_what_an_upstream_needs_stays() -> None:
    needed = (
        "accept", "accept-encoding", "accept-language", "content-length", "content-type", "host", "te", "traceparent",
        "tracestate", "user-agent", "x-forwarded-for", "x-forwarded-proto",
    )  # fmt: skip
    assert removed(":method", ":path", ":authority", ":scheme", *needed) == ()
    assert set(needed) == model_api.FORWARDED_HEADERS


def test_each_name_is_removed_once() -> None:
    assert removed("x-a", "x-b", "x-a") == ("x-a", "x-b")


def test_the_operator_can_add_headers() -> None:
    assert removed("x-trace", "x-other", forwarded=frozenset({"x-trace"})) == ("x-other",)


@pytest.mark.parametrize(
    "name",
    ["authorization", "api-key", "x-api-key", "proxy-authorization", "cookie", "x-tenantry-tenant", "x-tenantry-"],
)
def test_but_never_a_credential_or_a_header_of_ours(name: str) -> None:
    """Invariant 2."""
    assert removed(name, forwarded=frozenset({name})) == (name,)


def test_a_tenant_sees_its_own_models() -> None:
    rules = book()
    for tenant, names in {"acme": ["chat-8b", "embed"], "initech": ["chat-8b"]}.items():
        profile = rules.profile(tenant)
        assert profile is not None
        answer = model_api.models_answer(rules, profile)
        assert (answer.status, answer.headers, answer.grpc_status) == (
            200,
            (("content-type", "application/json"),),
            None,
        )
        assert answer.details == "tenantry_models"
        listed = json.loads(answer.body)
        assert listed["object"] == "list"
        assert listed["data"] == [
            {"id": name, "object": "model", "created": 0, "owned_by": "tenantry"} for name in names
        ]
