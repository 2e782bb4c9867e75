"""The HTTP side: vLLM's routes over the engine, its dangerous ones too, and the test pages.

As vLLM does, a stream's response headers go out before the first token, the API key guards `/v1`
alone, and the administrative routes obey whoever asks. They do nothing here but answer 200 and be
`seen`: a test proves that they are never reached.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hmac import compare_digest
from html import escape
from ipaddress import ip_address
from typing import Any, Protocol
from uuid import UUID

import msgspec
from aiohttp import web

from tenantry_standin.batching import Finished, Job, QueueFullError
from tenantry_standin.behaviour import Behaviour, Fate
from tenantry_standin.engine import Engine, EngineConfig, TokenStream
from tenantry_standin.openai_api import FINGERPRINT, Api, ApiError, Call, Writer, embeddings_answer, read, writer
from tenantry_standin.prefix_cache import prompt
from tenantry_standin.seen import SeenLog
from tenantry_standin.text import words

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ADMIN_ROUTES = (
    ("POST", "/abort_requests"),
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("POST", "/update_weights"),
    ("POST", "/collective_rpc"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("GET", "/v1/responses/{id}"),
    ("POST", "/v1/responses/{id}/cancel"),
)

_LISTEN_BACKLOG = 4096
_STOP_TIMEOUT_S = 0.05  # aiohttp reads 0 as "wait for ever"


class Log(Protocol):
    """Writes one line: an event and its fields."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


class Server:
    """The handlers of one engine."""

    def __init__(self, config: EngineConfig, engine: Engine, log: Log) -> None:
        self.seen = SeenLog()
        self._config = config
        self._engine = engine
        self._log = log
        self._names = dict.fromkeys((config.model, *config.served_names))
        self._rng = random.Random(config.seed)  # noqa: S311 - decides who fails, not who may enter

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(middlewares=[self._observe], client_max_size=self._config.max_body_bytes)
        app.on_response_prepare.append(self._sign)
        app.router.add_get("/", self._page)
        app.router.add_get("/health", self._health)
        app.router.add_get("/version", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        for api in Api:
            app.router.add_post(api.value, self._generate)
        for method, path in ADMIN_ROUTES:
            app.router.add_route(method, path, self._admin)
        app.router.add_get("/stand-in/seen", self._show_seen)
        app.router.add_get("/stand-in/behaviour", self._show_behaviour)
        app.router.add_post("/stand-in/behaviour", self._set_behaviour)
        return app

    async def _sign(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers["server"] = FINGERPRINT
        response.headers["x-stand-in-engine"] = "true"
        response.headers["x-stand-in-version"] = self._config.version

    @web.middleware
    async def _observe(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path.startswith("/stand-in/"):
                self._check_loopback(request)
            else:
                await self._note(request)
                self._check_key(request)
            return await handler(request)
        except ApiError as error:
            return _json(error.body(), status=error.status)
        except web.HTTPException as error:
            return _json(ApiError(error.status, error.reason).body(), status=error.status)

    async def _note(self, request: web.Request) -> None:
        body = b""
        try:
            body = await request.read()
        finally:  # also what was too large, or whose client left half-way
            self.seen.add(request.method, request.raw_path, request.raw_headers, body, time_s=time.time())

    def _check_key(self, request: web.Request) -> None:
        key = self._config.api_key
        if key and request.path.startswith("/v1/"):
            given = request.headers.get("authorization", "").encode(errors="surrogateescape")
            if not compare_digest(given, b"Bearer " + key.encode()):
                raise ApiError(401, "Send 'Authorization: Bearer' with the key of this engine.", code="invalid_api_key")

    def _check_loopback(self, request: web.Request) -> None:
        if request.remote is None or not ip_address(request.remote).is_loopback:
            raise ApiError(403, "/stand-in/ answers to loopback only.")

    # The model routes

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        call = read(Api(request.path), await request.read())
        self._check_model(call.model)
        behaviour = self._engine.behaviour
        fate = behaviour.draw_fate(self._rng)
        if fate is Fate.ERROR:
            raise ApiError(500, "The stand-in engine failed, as its error_rate says.")
        if fate is Fate.HANG:
            await asyncio.Event().wait()
        job = self._job(call, request, behaviour)
        try:
            with self._engine.sequence(job) as tokens:
                if call.api is Api.EMBEDDINGS:
                    await tokens.take()
                    return await self._send(request, embeddings_answer(call, _result(tokens)), fate)
                answer = writer(call, job.request_id, int(time.time()))
                text = words(call.inputs[0], behaviour.repetition)
                if call.stream:
                    return await _stream(request, answer, tokens, text, job.output_tokens, fate)
                count = 0
                while taken := await tokens.take():
                    count += taken
                body = answer.whole("".join(next(text) for _ in range(count)), _result(tokens))
                return await self._send(request, body, fate)
        except QueueFullError as error:
            raise ApiError(503, f"The engine is full: {error}.") from None

    def _check_model(self, model: str) -> None:
        if model not in self._names:
            raise ApiError(404, f"The model '{model}' does not exist here. Known: {', '.join(self._names)}.")

    def _job(self, call: Call, request: web.Request, behaviour: Behaviour) -> Job:
        header_id = request.headers.get("x-request-id", "")
        cut = prompt(b"".join(call.inputs), call.cache_salt)
        tokens = 0
        if call.api is not Api.EMBEDDINGS:
            tokens = behaviour.output_tokens(call.max_tokens, self._config.default_output_tokens)
        if cut.tokens + tokens > (limit := self._config.max_model_tokens):
            raise ApiError(400, f"{cut.tokens} prompt tokens and {tokens} to come exceed the model's {limit}.")
        return Job(
            id=self._engine.next_id(),
            prompt=cut,
            output_tokens=tokens,
            priority=call.priority,
            ttft_factor=behaviour.ttft_factor,
            finish_reason="length" if call.max_tokens == tokens else "stop",
            # Embeddings have no vllm_xargs: there, tenantry writes REQUEST_ID.TENANT into x-request-id.
            tenant=str(call.arguments.get("tenant", header_id.partition(".")[2])),
            version=self._config.version,
            request_id=str(call.arguments.get("request_id", header_id.partition(".")[0] or self._new_id())),
        )

    def _new_id(self) -> str:
        return UUID(int=self._rng.getrandbits(128), version=4).hex

    async def _send(self, request: web.Request, body: bytes, fate: Fate) -> web.StreamResponse:
        if fate is not Fate.DIE_AFTER_FIRST_BYTE:
            return web.Response(body=body, content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        return _cut(request, response)

    # The other pages

    async def _models(self, _: web.Request) -> web.Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": FINGERPRINT} for name in self._names]
        return _json({"object": "list", "data": data})

    async def _admin(self, request: web.Request) -> web.Response:
        self._log("admin route reached", method=request.method, path=request.path)
        return _json({"stand_in": True, "did": "nothing", "warning": "A real engine would have obeyed."})

    async def _health(self, _: web.Request) -> web.Response:
        return _json({"stand_in": True, "status": "ok", "version": FINGERPRINT, "model_version": self._config.version})

    async def _metrics(self, _: web.Request) -> web.Response:
        engine, totals = self._engine, self._engine.totals
        lines = []
        for name, kind, value in (
            ("waiting", "gauge", engine.waiting),
            ("running", "gauge", engine.running),
            ("requests_total", "counter", self.seen.last),
            ("finished_total", "counter", totals.finished),
            ("aborted_total", "counter", totals.aborted),
            ("prompt_tokens_total", "counter", totals.prompt_tokens),
            ("cached_tokens_total", "counter", totals.cached_tokens),
            ("output_tokens_total", "counter", totals.output_tokens),
            ("steps_total", "counter", totals.steps),
            ("busy_seconds_total", "counter", totals.busy_seconds),
        ):
            lines.append(f"# HELP standin_{name} Of the stand-in engine: no model runs here.\n")
            lines.append(f"# TYPE standin_{name} {kind}\nstandin_{name} {value}\n")
        return web.Response(text="".join(lines), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _page(self, _: web.Request) -> web.Response:
        config, engine = self._config, self._engine
        rows = {
            "model": config.model,
            "version": config.version,
            "waiting": engine.waiting,
            "running": engine.running,
            "finished": engine.totals.finished,
            **msgspec.to_builtins(engine.behaviour),
        }
        cells = "".join(f"<tr><th>{escape(name)}<td>{escape(str(value))}" for name, value in rows.items())
        page = (
            "<!doctype html><html lang=en><meta charset=utf-8><title>Stand-in engine</title><h1>Stand-in engine</h1>"
            "<p>This is a stand-in for a serving engine, part of tenantry. No model runs here: the words are filler "
            f"and the time they take is simulated.<table>{cells}</table>"
        )
        return web.Response(text=page, content_type="text/html")

    async def _show_seen(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not after.isdecimal():
            raise ApiError(400, f"'after' must be the number of a request, not '{after}'.")
        return _json({"stand_in": True, "last": self.seen.last, "requests": self.seen.after(int(after))})

    async def _show_behaviour(self, _: web.Request) -> web.Response:
        return _json({"stand_in": True, "behaviour": self._engine.behaviour})

    async def _set_behaviour(self, request: web.Request) -> web.Response:
        try:
            changes = msgspec.json.decode(await request.read(), type=dict[str, Any])
            self._engine.behaviour = self._engine.behaviour.changed(**changes)
        except msgspec.DecodeError as error:
            raise ApiError(400, f"The behaviour was not changed: {error}") from None
        self._log("behaviour changed", **changes)
        return await self._show_behaviour(request)


def _result(tokens: TokenStream) -> Finished:
    if tokens.finished is None:
        raise ApiError(503, "The stand-in engine stopped.")
    return tokens.finished


async def _stream(
    request: web.Request, answer: Writer, tokens: TokenStream, text: Any, output_tokens: int, fate: Fate
) -> web.StreamResponse:
    """Send the headers at once, then each token when it is there."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    sent = ""
    count = 0
    if opening := answer.opening():
        await response.write(opening)
    while taken := await tokens.take():
        new = [next(text) for _ in range(taken)]
        await response.write(answer.words(new))
        sent += "".join(new)
        count += taken
        if fate is Fate.DIE_AFTER_FIRST_BYTE:
            return _cut(request, response)
        if fate is Fate.STREAM_ERROR and 2 * count >= output_tokens:
            await response.write(answer.failure(ApiError(500, "The stand-in engine failed, as its behaviour says.")))
            return response
    try:
        await response.write(answer.closing(sent, _result(tokens)))
    except ApiError as error:
        await response.write(answer.failure(error))
    return response


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection under an answer, as a dying process does."""
    if request.transport is not None:
        request.transport.abort()
    return response


def _json(data: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json")


class RunningEngine:
    """An engine that listens. `stop` waits up to `drain_s` for open requests, then cuts them."""

    def __init__(
        self, *, url: str, port: int, engine: Engine, seen: SeenLog, stop: Callable[[], Awaitable[None]]
    ) -> None:
        self.url = url
        self.port = port
        self.engine = engine
        self.seen = seen
        self.stop = stop


async def start(
    config: EngineConfig,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    log: Log = lambda _event, /, **_fields: None,
    on_finished: Callable[[Finished], None] = lambda _finished: None,
) -> RunningEngine:
    """Start an engine in the running loop; port 0 takes a free one. Any number of them may share a process."""
    engine = Engine(config, on_finished)
    server = Server(config, engine, log)
    runner = web.AppRunner(
        server.application(),
        handler_cancellation=True,  # a client that leaves aborts its sequence
        access_log=None,
        shutdown_timeout=max(config.drain_s, _STOP_TIMEOUT_S),
    )
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=_LISTEN_BACKLOG).start()
    steps = asyncio.create_task(engine.run())
    bound_port: int = runner.addresses[0][1]

    async def stop() -> None:
        await runner.cleanup()
        steps.cancel()
        with suppress(asyncio.CancelledError):
            await steps

    url = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}"
    return RunningEngine(url=url, port=bound_port, engine=engine, seen=server.seen, stop=stop)
