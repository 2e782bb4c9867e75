"""The model routes: which requests may reach an engine at all, and which headers go with them.

Default deny. Engines serve far more than OpenAI's API: vLLM answers `/abort_requests`, `/sleep`,
`/update_weights`, `/v1/load_lora_adapter` and stored responses to whoever asks. So a request must
match a method and a path of this page exactly, without a query string.

Headers are default-deny as well. vLLM 0.32 reads `x-vllm-priority`, `x-data-parallel-rank`,
`x-session-id` and `x-request-id` from the client (vllm/entrypoints/generate/base/serving.py), and
the next release may read more; a list of what to remove would always be one release late.
"""

from collections.abc import Iterable

import msgspec

from tenantry.core.chat import Api
from tenantry.core.errors import (
    BadRequestError,
    MethodNotAllowedError,
    NotFoundError,
    TooLargeError,
    UnsupportedMediaError,
)
from tenantry.core.events import Answer, Header
from tenantry.core.rulebook import RuleBook
from tenantry.core.tenant import Profile

MODELS_PATH = "/v1/models"

ROUTES = {api.value: "POST" for api in Api} | {MODELS_PATH: "GET"}

FORWARDED_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "content-length",
        "content-type",
        "host",
        "te",
        "traceparent",
        "tracestate",
        "user-agent",
        # Set by Envoy itself, after it has removed what the client sent.
        "x-forwarded-for",
        "x-forwarded-proto",
    }
)
"""What an upstream sees of a client's headers; `limits.forwardHeaders` adds to it."""

NEVER_FORWARDED = frozenset({"authorization", "api-key", "x-api-key", "proxy-authorization", "cookie"})
"""Credentials: `limits.forwardHeaders` cannot bring them back (invariant 2)."""

OWN_PREFIX = "x-tenantry-"
"""Headers that only the sidecar sets; nor can it bring back a client's copy of these."""

ENVOY_PREFIX = "x-envoy-"
"""Headers that Envoy's router obeys (timeouts, retries, hedging); nor of these, other than the sidecar's."""


def match(method: str, path: str) -> Api | None:
    """Return the model route of a request, None for `GET /v1/models`; raise for everything else."""
    bare = path.partition("?")[0]
    wanted = ROUTES.get(bare)
    if wanted is None:
        routes = ", ".join(f"{verb} {route}" for route, verb in sorted(ROUTES.items()))
        raise NotFoundError("unknown_route", f"There is no such route here. Known: {routes}.")
    if method != wanted:
        raise MethodNotAllowedError("method_not_allowed", f"{bare} takes {wanted} only.")
    if bare != path:
        raise BadRequestError("query_not_allowed", f"{bare} takes no query string.")
    return None if bare == MODELS_PATH else Api(bare)


def check_body_headers(headers: Iterable[Header], max_body_bytes: int) -> None:
    """Refuse a body that could not be read anyway, before Envoy buffers it."""
    for name, value in headers:
        if name == "content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedMediaError("unsupported_encoding", "Send the body uncompressed (no content-encoding).")
        if name == "content-type" and value.partition(b";")[0].strip().lower() != b"application/json":
            raise UnsupportedMediaError("unsupported_media_type", "Send 'content-type: application/json'.")
        if name == "content-length" and value.isdigit():
            check_body_size(int(value[:19]), max_body_bytes)  # int() refuses thousands of digits


def check_body_size(body_bytes: int, max_body_bytes: int) -> None:
    """Refuse a body beyond the limit."""
    if body_bytes > max_body_bytes:
        raise TooLargeError("body_too_large", f"The body is larger than {max_body_bytes} bytes.")


def removed_headers(headers: Iterable[Header], extra_forwarded: frozenset[str]) -> tuple[str, ...]:
    """Return the names, each once, that must not reach an upstream. Pseudo-headers stay."""
    kept = (FORWARDED_HEADERS | extra_forwarded) - NEVER_FORWARDED
    return tuple(
        {
            name: None
            for name, _ in headers
            if name.startswith((OWN_PREFIX, ENVOY_PREFIX)) or (name not in kept and not name.startswith(":"))
        }
    )


def models_answer(book: RuleBook, profile: Profile) -> Answer:
    """Answer `GET /v1/models` with the tenant's own models, in OpenAI's shape."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "tenantry"} for name in book.models_of(profile)]
    return Answer(
        status=200,
        headers=(("content-type", "application/json"),),
        body=msgspec.json.encode({"object": "list", "data": data}),
        details="tenantry_models",
    )
