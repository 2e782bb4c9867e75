"""The model routes over HTTP, and how an engine is started.

As vLLM does, a stream's response headers go out before its first token, a client that leaves frees
its slot, and the API key guards `/v1` alone.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from hmac import compare_digest
from uuid import uuid4

from aiohttp import web
from msgspec import Struct

from tenantry_standin.answers import FINGERPRINT, Writer, embeddings, writer
from tenantry_standin.batching import Finished, Job, QueueFullError
from tenantry_standin.behaviour import Behaviour, Fate
from tenantry_standin.bodies import Api, ApiError, Call, read
from tenantry_standin.engine import Engine, EngineConfig, Log, TokenStream
from tenantry_standin.pages import Pages, json_response
from tenantry_standin.prefix_cache import prompt
from tenantry_standin.seen import SeenLog
from tenantry_standin.text import words

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LISTEN_BACKLOG = 4096
_STOP_TIMEOUT_S = 0.05  # aiohttp reads 0 as "wait for ever"


class RunningEngine(Struct, frozen=True, kw_only=True):
    """An engine that listens. `stop` waits up to `drain_s` for open requests, then cuts them."""

    url: str
    port: int
    engine: Engine
    seen: SeenLog
    stop: Callable[[], Awaitable[None]]


async def start(
    config: EngineConfig,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    log: Log = lambda _event, /, **_fields: None,
    on_finished: Callable[[Finished], None] = lambda _finished: None,
) -> RunningEngine:
    """Start an engine in the running loop; port 0 takes a free one. Any number of them may share a process."""
    engine, seen = Engine(config, on_finished), SeenLog()
    model = _ModelRoutes(config, engine, seen)
    app = web.Application(middlewares=[model.observe], client_max_size=config.max_body_bytes)
    app.on_response_prepare.append(model.sign)
    app.add_routes([web.post(api.value, model.generate) for api in Api])
    app.add_routes(Pages(config, engine, seen, log).routes())
    runner = web.AppRunner(
        app,
        handler_cancellation=True,  # a client that leaves aborts its sequence
        access_log=None,
        shutdown_timeout=max(config.drain_s, _STOP_TIMEOUT_S),
    )
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=_LISTEN_BACKLOG).start()
    bound_port: int = runner.addresses[0][1]
    steps = asyncio.create_task(engine.run())

    async def stop() -> None:
        await runner.cleanup()
        steps.cancel()
        with suppress(asyncio.CancelledError):
            await steps

    url = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}"
    return RunningEngine(url=url, port=bound_port, engine=engine, seen=seen, stop=stop)


class _ModelRoutes:
    """The four generating routes of one engine, and what happens around every request."""

    def __init__(self, config: EngineConfig, engine: Engine, seen: SeenLog) -> None:
        self._config = config
        self._engine = engine
        self._seen = seen
        self._rng = random.Random(config.seed)  # noqa: S311 - decides who fails, not who may enter

    async def sign(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers["server"] = FINGERPRINT
        response.headers["x-stand-in-engine"] = "true"
        response.headers["x-stand-in-version"] = self._config.version

    @web.middleware
    async def observe(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if not request.path.startswith("/stand-in/"):
                await self._note(request)
                self._check_key(request)
            return await handler(request)
        except ApiError as error:
            return json_response(error.body(), status=error.status)
        except web.HTTPException as error:
            return json_response(ApiError(error.status, error.reason).body(), status=error.status)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        call = read(Api(request.path), await request.read())
        if call.model not in (names := self._config.names()):
            raise ApiError(404, f"The model '{call.model}' does not exist here. Known: {', '.join(names)}.")
        behaviour = self._engine.behaviour
        fate = behaviour.draw_fate(self._rng)
        if fate is Fate.ERROR:
            raise ApiError(500, "The stand-in engine failed, as its error_rate says.")
        if fate is Fate.HANG:
            await asyncio.Event().wait()
        job = self._job(call, request.headers.get("x-request-id", ""), behaviour)
        try:
            with self._engine.sequence(job) as tokens:
                if call.api is Api.EMBEDDINGS:
                    await tokens.take()
                    return await _send(request, embeddings(call, tokens.result()), fate)
                answer = writer(call, job.request_id, int(time.time()))
                text = words(call.inputs[0], behaviour.repetition)
                if call.stream:
                    fails_after = job.output_tokens // 2 if fate is Fate.STREAM_ERROR else None
                    dies = fate is Fate.DIE_AFTER_FIRST_BYTE
                    return await _stream(request, answer, tokens, text, fails_after=fails_after, dies=dies)
                sent = ""
                while count := await tokens.take():
                    sent += "".join(next(text) for _ in range(count))
                return await _send(request, answer.whole(sent, tokens.result()), fate)
        except QueueFullError as error:
            raise ApiError(503, f"The engine is full: {error}.") from None

    async def _note(self, request: web.Request) -> None:
        body = b""
        try:
            body = await request.read()
        finally:  # what was too large counts too, and what broke off half-way
            self._seen.add(request.method, request.raw_path, request.raw_headers, body, time_s=time.time())

    def _check_key(self, request: web.Request) -> None:
        key = self._config.api_key
        if key and request.path.startswith("/v1/"):
            given = request.headers.get("authorization", "").encode(errors="surrogateescape")
            if not compare_digest(given, b"Bearer " + key.encode()):
                raise ApiError(401, "Send 'Authorization: Bearer' with the key of this engine.")

    def _job(self, call: Call, header_id: str, behaviour: Behaviour) -> Job:
        cut = prompt(b"".join(call.inputs), call.cache_salt)
        tokens = 0
        if call.api is not Api.EMBEDDINGS:
            tokens = behaviour.output_tokens(call.max_tokens, self._config.default_output_tokens)
        if cut.tokens + tokens > (limit := self._config.max_model_tokens):
            raise ApiError(400, f"{cut.tokens} prompt tokens and {tokens} to come exceed the model's {limit}.")
        # Embeddings have no vllm_xargs: there, tenantry writes TENANT:REQUEST_ID into x-request-id.
        tenant, _, request_id = header_id.rpartition(":")
        return Job(
            id=self._engine.next_id(),
            prompt=cut,
            output_tokens=tokens,
            priority=call.priority,
            ttft_factor=behaviour.ttft_factor,
            finish_reason="length" if call.max_tokens == tokens else "stop",
            tenant=str(call.arguments.get("tenant", tenant)),
            version=self._config.version,
            request_id=str(call.arguments.get("request_id", request_id or uuid4().hex)),
        )


async def _send(request: web.Request, body: bytes, fate: Fate) -> web.StreamResponse:
    if fate is not Fate.DIE_AFTER_FIRST_BYTE:
        return web.Response(body=body, content_type="application/json")
    response = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return _cut(request, response)


async def _stream(
    request: web.Request,
    answer: Writer,
    tokens: TokenStream,
    text: Iterator[str],
    *,
    fails_after: int | None,
    dies: bool,
) -> web.StreamResponse:
    """Send the headers at once, then each token when it is there; fail after so many tokens, or die after one."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    await response.write(answer.opening())
    sent: list[str] = []
    while count := await tokens.take():
        new = [next(text) for _ in range(count)]
        sent += new
        await response.write(answer.words(new))
        if dies:
            return _cut(request, response)
        if fails_after is not None and len(sent) >= fails_after:
            await response.write(answer.failure(ApiError(500, "The stand-in engine failed, as its behaviour says.")))
            return response
    try:
        await response.write(answer.closing("".join(sent), tokens.result()))
    except ApiError as error:
        await response.write(answer.failure(error))
    return response


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection under an answer, as a dying process does."""
    if request.transport is not None:
        request.transport.abort()
    return response
