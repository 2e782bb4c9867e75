"""One HTTP exchange as Envoy tells it over ext_proc: a state machine without I/O.

Theory of operation. Envoy opens one gRPC stream per exchange and waits for one answer to each
message. Two properties matter more than all others: an event is never left unanswered (Envoy
would hang until its timeout), and nothing that was not decided is let through (invariant 1).
So `on_event` returns exactly one reply or raises ConversationError, and after that only ever
raises again; the transport ends the stream with an error status, never with a clean end, which
Envoy takes for consent (measured: 200, reached the upstream).

The request is decided with its *last* request-phase event. With BUFFERED mode there is one body
event, and it is the last whatever its `end_stream` says: HTTP/2 trailers leave it false. Only
that reply writes `enforced: yes`, so a stream that ends earlier leaves the RBAC backstop without
its mark, and the request is refused there.

`TRANSITIONS` is the table that runs. Two rows look odd and are meant: a second, empty body is
answered, since Envoy may send one after large bodies (envoyproxy/envoy#46237) and it can add
nothing; a second body with content is an error, since it would pass unread.

A request to a vector store has a second half: Envoy holds the answer until the reply to its last
event writes `verified: yes`. On the routes of models response events arrive for models whose usage
is read from the response, because `Continue.watch` asks for them; they change nothing.
"""

from collections.abc import Callable, Mapping
from enum import Enum

from msgspec import Struct, structs

from tenantry.core import chat, model_api
from tenantry.core.errors import (
    BadRequestError,
    ConversationError,
    NotFoundError,
    RequestRefusedError,
    UnavailableError,
)
from tenantry.core.events import (
    Answer,
    Continue,
    Deliver,
    Event,
    Forward,
    Header,
    Reply,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from tenantry.core.identity import Presented, authenticate
from tenantry.core.keyring import Keyring
from tenantry.core.outcome import Measure, Outcome
from tenantry.core.quota.answer import metadata_key
from tenantry.core.quota.claim import Claim, Size, claim, measure, size_of
from tenantry.core.response_usage import ResponseUsage
from tenantry.core.routing import Decision, Live, decide
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Model
from tenantry.core.split import Dice, throw, unit_of
from tenantry.core.store_exchange import StoreExchange
from tenantry.core.tenant import Tenant
from tenantry.core.vector.calls import Call, StoreHead, StoreOf

PER_TRY_HEADER = "x-envoy-upstream-rq-per-try-timeout-ms"
"""How long an attempt has until its first byte (Envoy, router filter); taken off by Envoy."""

HEDGE_HEADER = "x-envoy-hedge-on-per-try-timeout"
"""The attempt that took too long is not given up; taken off by Envoy."""


MAX_MIRRORED_BODY_BYTES = 256 * 1024
"""Larger ones are not copied: 30 copies of 8 MiB to a candidate that does not read held 298 MiB in Envoy (measured)."""


class State(Enum):
    """Where a conversation stands."""

    AWAIT_HEADERS = "await headers"
    AWAIT_BODY = "await body"
    PASSED = "passed on"
    AWAIT_ANSWER = "await a store's answer"
    AWAIT_ANSWER_BODY = "await the body of a store's answer"
    VERIFIED = "verified"
    ANSWERED = "answered here"
    FAILED = "failed"


class Snapshot(Struct, frozen=True, kw_only=True):
    """The rules and secrets of one moment. An exchange keeps the one it began with."""

    book: RuleBook
    keyring: Keyring


Gate = Callable[[StoreOf], None]
"""Asked before each request to a store; raises RequestRefusedError unless it may be used by these rules of it."""


OpenCall = Callable[[RuleBook, str, str, StoreHead], tuple[StoreOf, Call] | None]
"""`vector.stores.open_call`. It comes from outside: the stores' messages need protobuf, and the core alone has none."""


def no_stores(_book: RuleBook, _tenant: str, _authority: str, _head: StoreHead) -> None:
    """Say of every request that it is not for a store."""


def closed(store_of: StoreOf) -> None:
    """Refuse: nobody has shown that the store keeps tenants apart."""
    raise UnavailableError("store_not_proven", f'The store "{store_of.name}" is not in use yet.')


class Session:
    """One exchange.

    `new_request_id` returns a fresh id of 32 hexadecimal digits; ids are never the client's, since
    usage is billed by them. `live` returns what is known of rollouts; it is asked when the version
    is chosen, so that a revert counts from the next decision on. `open_call` tells what a request
    asks of a vector store, and `gate` is asked before that one is used. After the last event
    `tenant`, `decision`, `store` and `refusal` say what happened, for metrics; `events` counts the
    messages of the conversation.

    What an exchange needs of the world before its `Forward` may be sent stands in `claim` (of its tenant's quota) and
    `store.need`; who sends it asks for them first, and then says `granted` or `refuse`.
    """

    __slots__ = (
        "_gate",
        "_headers",
        "_live",
        "_open_call",
        "_snapshot",
        "api",
        "claim",
        "decision",
        "events",
        "grpc",
        "refusal",
        "request_id",
        "response_usage",
        "state",
        "store",
        "tenant",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        new_request_id: Callable[[], str],
        live: Callable[[], Live] = Live,
        gate: Gate = closed,
        open_call: OpenCall = no_stores,
    ) -> None:
        self._snapshot = snapshot
        self._live = live
        self._gate = gate
        self._open_call = open_call
        self._headers: tuple[Header, ...] = ()
        self.state = State.AWAIT_HEADERS
        self.api: chat.Api | None = None
        self.grpc = False
        self.request_id = new_request_id()
        self.tenant: Tenant | None = None
        self.claim: Claim | None = None
        self.response_usage: ResponseUsage | None = None
        self.decision: Decision | None = None
        self.store: StoreExchange | None = None
        self.refusal: RequestRefusedError | None = None
        self.events = 0

    def on_event(self, event: Event, now: float) -> Reply:
        """Return the one reply to `event`, or raise ConversationError; `now` is Unix seconds."""
        self.events += 1
        step = TRANSITIONS.get((self.state, type(event)))
        if step is None:
            before, self.state = self.state, State.FAILED
            raise ConversationError(f"{type(event).__name__} is not expected in state {before.value!r}")
        try:
            reply = step.run(self, event, now)
        except RequestRefusedError as refusal:
            self.refusal = _bare(refusal)
            reply = _refusal_answer(refusal, grpc=self.grpc)
        except BaseException:
            self.state = State.FAILED
            raise
        self.state = step.after(reply, of_store=self.store is not None)
        return reply

    def refuse(self, refusal: RequestRefusedError) -> Answer:
        """Take back the reply that passed a request on, before it was sent: what the request needs is not to be had."""
        if self.state not in (State.AWAIT_ANSWER, State.PASSED):
            raise ConversationError("only a request that was to be passed on can be taken back, before it went")
        self.refusal = _bare(refusal)
        self.state = State.ANSWERED
        return _refusal_answer(refusal, grpc=self.grpc)

    @staticmethod
    def granted(forward: Forward, figures: Mapping[str, str]) -> Forward:
        """Return the reply that passes a request on, with what its client is to be told of its quota."""
        told = {metadata_key(name): value for name, value in figures.items()}
        return structs.replace(forward, metadata={**forward.metadata, **told})

    def _on_headers(self, event: RequestHeaders, now: float) -> Reply:
        headers = event.headers
        values: dict[str, list[bytes]] = {}
        for name, value in headers:
            values.setdefault(name, []).append(value)
        self.grpc = values.get("content-type", [b""])[0].startswith(b"application/grpc")
        self.tenant = authenticate(self._snapshot.book, _presented(event, values), now)
        method, path = _one(values, ":method"), _one(values, ":path")
        if self._snapshot.book.has_stores and self._opens_store(StoreHead(method=method, path=path, headers=headers)):
            return self._store_forward(None) if event.end_stream else Continue()
        self.api = model_api.match(method, path)
        if self.api is None:
            return model_api.models_answer(self._snapshot.book, self.tenant.profile)
        model_api.check_body_headers(headers, self._snapshot.book.rules.limits.max_body_bytes)
        if event.end_stream:
            raise BadRequestError("missing_body", f"{path} needs a JSON body.")
        self._headers = headers
        reads = self._snapshot.book.reads_responses(self.tenant.profile)
        return Continue(watch="headers") if reads else Continue()

    def _opens_store(self, head: StoreHead) -> bool:
        tenant = self._verified_tenant()
        authority = b"".join(head.all(":authority")).decode("latin-1")
        opened = self._open_call(self._snapshot.book, tenant.profile.name, authority, head)
        if opened is None:
            return False
        store_of, call = opened
        self.store = StoreExchange(store_of, call, head, self._snapshot.book.rules.limits.max_body_bytes)
        self._gate(store_of)
        return True

    def _store_forward(self, body: bytes | None) -> Reply:
        store = self._store()
        # Asked when the headers came, so that nobody sends a body in vain; that may be minutes ago.
        self._gate(store.store_of)
        return store.forward(body, self._verified_tenant(), self._snapshot.keyring, self.request_id)

    def _store(self) -> StoreExchange:
        if self.store is None:  # the table makes this unreachable
            raise ConversationError("a store's answer without a store")
        return self.store

    def _verified_tenant(self) -> Tenant:
        if self.tenant is None:  # the table makes this unreachable; a bug must not pass a request
            raise ConversationError("a body without a verified tenant")
        return self.tenant

    def _on_answer_headers(self, event: ResponseHeaders, _now: float) -> Reply:
        return self._store().hold(event) or Continue()

    def _on_answer_body(self, event: ResponseBody, _now: float) -> Reply:
        return self._store().deliver(event)

    def _on_body(self, event: RequestBody, now: float) -> Reply:
        if self.store is not None:
            return self._store_forward(event.body)
        book, keyring = self._snapshot.book, self._snapshot.keyring
        tenant, api = self._verified_tenant(), self.api
        if api is None:
            raise ConversationError("a body without a route")
        # Envoy's own bound is a watermark: 130 kB that announced no length passed a limit of 64 KiB.
        model_api.check_body_size(len(event.body), book.rules.limits.max_body_bytes)
        body = chat.read(event.body)
        model = book.model(body.model)
        if model is None or not tenant.profile.may_use(body.model):
            raise NotFoundError(
                "model_not_found", "The model does not exist, or you do not have access to it.", param="model"
            )
        decision = self.decision = self._decide(tenant, body, model, len(event.body))
        reads = model.usage == "response"
        stamped = chat.stamp(
            body,
            api=api,
            tenant=tenant,
            decision=decision,
            keyring=keyring,
            request_id=self.request_id,
            asks_usage=reads,
        )
        size = self._weigh(tenant, model, body, api, len(event.body))
        secret = keyring.engine_secret(decision.model)
        identity = {
            "tenant": tenant.profile.name,
            "tier": tenant.profile.tier,
            "model": decision.model,
            "version": decision.version,
        }
        measured: dict[str, str] = {}
        if size is not None:
            by = measure(model.usage, api, size, streams=body.streams)
            measured = self._measure(identity, by, len(event.body), now)
        set_headers = [(f"x-tenantry-{name}", value) for name, value in identity.items()]
        set_headers += [
            ("x-tenantry-request-id", self.request_id),
            ("x-tenantry-cluster", decision.cluster),
            ("x-request-id", chat.engine_request_id(tenant, self.request_id)),
            ("content-type", "application/json"),
            ("content-length", str(len(stamped))),
        ]
        if decision.rescued and decision.trial is not None:
            limit_ms = max(1, round(decision.trial.limit_s * 1000))
            set_headers += [("x-tenantry-route", "rescue"), (PER_TRY_HEADER, str(limit_ms))]
            if not body.streams:
                # A whole answer may be slow and good: the first attempt goes on beside the second, and the first
                # answer wins. A stream that has no headers yet has nothing to wait for.
                set_headers.append((HEDGE_HEADER, "true"))
        elif decision.mirror_cluster:
            set_headers += [("x-tenantry-route", "mirror"), ("x-tenantry-mirror-cluster", decision.mirror_cluster)]
        if secret is not None:
            set_headers.append(("authorization", f"Bearer {secret}"))
        names = {name for name, _ in set_headers}
        removed = model_api.removed_headers(self._headers, book.forwarded_headers)
        if reads:  # what is compressed cannot be read
            removed = (*removed, "accept-encoding")
        return Forward(
            set_headers=tuple(set_headers),
            remove_headers=tuple(name for name in removed if name not in names),
            body=stamped,
            metadata=identity
            | (decision.trial.metadata() if decision.trial is not None else {})
            | measured
            | {"request_id": self.request_id, "reason": decision.reason, "enforced": "yes"},
        )

    def _weigh(self, tenant: Tenant, model: Model, body: chat.ChatBody, api: chat.Api, body_bytes: int) -> Size | None:
        """Claim what the request may cost, if its tenant has a quota; return its size where usage is measured by it."""
        limits = tenant.profile.limits
        if limits is None and model.usage == "plugin":
            return None
        size = size_of(body, api, body_bytes)
        if limits is not None:
            self.claim = claim(tenant.profile.name, limits, model, size)
        return None if model.usage == "plugin" else size

    def _measure(self, identity: dict[str, str], measured: Measure, body_bytes: int, now: float) -> dict[str, str]:
        """Return the metadata that lets usage be measured; where it is read from the response, begin to."""
        if measured.source == "response":
            about = Outcome(
                tenant=identity["tenant"], tier=identity["tier"], model=identity["model"], version=identity["version"],
                request_id=self.request_id, reason="", code=0, ended="aborted", flags=(), attempts=1, ttfb_ms=None,
                duration_ms=0.0, cluster="", request_bytes=body_bytes,
            )  # fmt: skip
            self.response_usage = ResponseUsage(about, measured, now)
        return measured.metadata()

    def _decide(self, tenant: Tenant, body: chat.ChatBody, model: Model, body_bytes: int) -> Decision:
        sticky = model.rollout.sticky if model.rollout is not None else ()

        def dice(rollout: str) -> Dice:
            unit = unit_of(sticky, body.members, self._headers, self.request_id)
            return throw(self._snapshot.keyring.split, rollout, tenant.profile.name, unit)

        decision = decide(tenant.profile, body.model, model, self._live(), dice, streams=body.streams)
        trial = decision.trial
        if trial is None:
            return decision
        if trial.mirror and body_bytes > MAX_MIRRORED_BODY_BYTES:
            decision, trial = structs.replace(decision, mirror_cluster=""), structs.replace(trial, mirror=False)
        return structs.replace(decision, trial=structs.replace(trial, has_past=body.has_past))

    def _on_second_body(self, event: RequestBody, _now: float) -> Reply:
        if event.body:
            raise ConversationError("a second body with content after the request was passed on")
        return Continue()

    def _on_idle_event(self, _event: Event, _now: float) -> Reply:
        return Continue()

    def _on_response_headers(self, event: ResponseHeaders, _now: float) -> Reply:
        if self.response_usage is None:
            return Continue()
        self.response_usage.headers(event)
        return Continue() if event.end_stream else Continue(watch="body")

    def _on_response_body(self, event: ResponseBody, now: float) -> Reply:
        if self.response_usage is not None:
            self.response_usage.body(event, now)
        return Continue()


class Step(Struct, frozen=True, kw_only=True):
    """What runs for an event in a state, and the state after each kind of reply.

    `store_next` is asked first in an exchange with a store.
    """

    run: Callable[..., Reply]
    next: dict[type, State]
    store_next: dict[type, State] = {}

    def after(self, reply: Reply, *, of_store: bool) -> State:
        """Return the state that follows this reply."""
        kind = type(reply)
        return self.store_next[kind] if of_store and kind in self.store_next else self.next[kind]


TRANSITIONS: dict[tuple[State, type], Step] = {
    (State.AWAIT_HEADERS, RequestHeaders): Step(
        run=Session._on_headers,  # noqa: SLF001  # the table is part of the class's own module
        next={Continue: State.AWAIT_BODY, Answer: State.ANSWERED},
        store_next={Forward: State.AWAIT_ANSWER},
    ),
    (State.AWAIT_BODY, RequestBody): Step(
        run=Session._on_body,  # noqa: SLF001
        next={Forward: State.PASSED, Answer: State.ANSWERED},
        store_next={Forward: State.AWAIT_ANSWER},
    ),
    (State.PASSED, RequestBody): Step(run=Session._on_second_body, next={Continue: State.PASSED}),  # noqa: SLF001
    (State.PASSED, RequestTrailers): Step(run=Session._on_idle_event, next={Continue: State.PASSED}),  # noqa: SLF001
    (State.PASSED, ResponseHeaders): Step(run=Session._on_response_headers, next={Continue: State.PASSED}),  # noqa: SLF001
    (State.PASSED, ResponseBody): Step(run=Session._on_response_body, next={Continue: State.PASSED}),  # noqa: SLF001
    (State.PASSED, ResponseTrailers): Step(run=Session._on_idle_event, next={Continue: State.PASSED}),  # noqa: SLF001
    (State.AWAIT_ANSWER, RequestBody): Step(
        run=Session._on_second_body,  # noqa: SLF001
        next={Continue: State.AWAIT_ANSWER},
    ),
    (State.AWAIT_ANSWER, ResponseHeaders): Step(
        run=Session._on_answer_headers,  # noqa: SLF001
        next={Continue: State.AWAIT_ANSWER_BODY, Deliver: State.VERIFIED, Answer: State.ANSWERED},
    ),
    (State.AWAIT_ANSWER_BODY, ResponseBody): Step(
        run=Session._on_answer_body,  # noqa: SLF001
        next={Deliver: State.VERIFIED, Answer: State.ANSWERED},
    ),
}
"""Every (state, event) that is allowed. Whatever is not here leads to FAILED."""


def _presented(event: RequestHeaders, values: dict[str, list[bytes]]) -> Presented:
    return Presented(
        authorization=tuple(values.get("authorization", ())),
        api_key=tuple(values.get("api-key", ())),
        jwt_claims=event.jwt_claims,
        uri_sans=event.uri_sans,
    )


def _one(values: dict[str, list[bytes]], name: str) -> str:
    found = values.get(name, [])
    if not found and name == ":path":  # CONNECT has none, and is a client's doing, not Envoy's
        return ""
    if len(found) != 1:
        raise ConversationError(f"{len(found)} {name} pseudo-headers, expected one")
    return found[0].decode("latin-1")


def _bare(refusal: RequestRefusedError) -> RequestRefusedError:
    """Return the refusal without what led to it.

    A traceback holds its frames, they hold the body and the session, and the session holds the refusal: a circle, so
    that bodies of 10 MiB that were refused stayed until Python looked for circles, some 400 MiB later.
    """
    refusal.__traceback__ = refusal.__cause__ = refusal.__context__ = None
    return refusal


def _refusal_answer(refusal: RequestRefusedError, *, grpc: bool) -> Answer:
    headers = [("content-type", "application/json")]
    if refusal.http_status == 401:
        headers.append(("www-authenticate", "Bearer"))
    headers.extend(refusal.headers)
    return Answer(
        status=refusal.http_status,
        headers=tuple(headers),
        body=refusal.message.encode() if grpc else refusal.openai_body(),
        details=f"tenantry_{refusal.code}",
        grpc_status=int(refusal.grpc_status) if grpc else None,
    )
