"""The model routes over HTTP, and how an engine is started.

As vLLM does, a stream's response headers go out before its first token, a client that leaves frees
its slot, and the API key guards `/v1` alone.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from uuid import uuid4

from aiohttp import web
from msgspec import Struct
from tenantry.core.metering.meter import EngineIdentity
from tenantry.core.usage import Record, UsageRecord
from tenantry_vllm.delivery import DeliveryStatus

from tenantry_standin.answers import FINGERPRINT, Writer, embeddings, writer
from tenantry_standin.batching import Finished, Job, QueueFullError
from tenantry_standin.behaviour import Behaviour, Fate
from tenantry_standin.bodies import Api, ApiError, Call, read
from tenantry_standin.engine import Engine, EngineConfig, Log, TokenStream
from tenantry_standin.metering import EngineMeter
from tenantry_standin.pages import Pages, json_response
from tenantry_standin.prefix_cache import prompt
from tenantry_standin.records import Ended, engine_id, finish_reason, log_probability, read_arrival
from tenantry_standin.seen import SeenLog
from tenantry_standin.text import words

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LISTEN_BACKLOG = 4096
_STOP_TIMEOUT_S = 0.05  # aiohttp reads 0 as "wait for ever"


class RunningEngine(Struct, frozen=True, kw_only=True):
    """An engine that listens. `stop` waits up to `drain_s` for open requests, then cuts them."""

    url: str
    port: int
    engine_id: str
    engine: Engine
    seen: SeenLog
    stop: Callable[[], Awaitable[None]]


async def start(
    config: EngineConfig,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    own_id: str = "",
    log: Log = lambda _event, /, **_fields: None,
    on_finished: Callable[[Finished], None] = lambda _finished: None,
    on_record: Callable[[Record], None] = lambda _record: None,
    record_counts: Callable[[], Mapping[str, int]] = dict,
    delivery_status: Callable[[], DeliveryStatus] | None = None,
    accepting: Callable[[], bool] = lambda: True,
) -> RunningEngine:
    """Start an engine in the running loop; port 0 takes a free one. Any number of them may share a process.

    `own_id` is the engine's in its records; empty draws one (`own_engine_id`). `on_record` gets each usage record,
    of whatever kind, once it is ready; what it raises is logged and harms no answer. `record_counts` says what became
    of the records, for /metrics (`Delivery.counts`), and `delivery_status` how delivery stands, for the metrics that a
    real engine with the plugin has there as well. While `accepting` says no, requests get 503: their records could
    not be kept.
    """
    own_id = own_id or own_engine_id(config)

    def deliver(record: Record) -> None:
        engine.totals.update(records=int(isinstance(record, UsageRecord) and record.final))
        try:
            on_record(record)
        except Exception as error:  # noqa: BLE001 - a record is worth less than the answer that it is about
            engine.totals.update(lost_records=1)
            log("usage record lost", error=type(error).__name__)

    identity = EngineIdentity(engine=own_id, model=config.model, version=config.version[:128], gpus=config.gpus)
    meter = EngineMeter(identity, config.cold_start, config.behaviour.speed, deliver)
    engine, seen = Engine(config, meter, on_finished), SeenLog()
    model = _ModelRoutes(config, engine, seen, accepting)
    app = web.Application(middlewares=[model.observe], client_max_size=config.max_body_bytes)
    app.on_response_prepare.append(model.sign)
    app.add_routes([web.post(api.value, model.generate) for api in Api])
    pages = Pages(
        config, engine, seen, log, own_id=own_id, record_counts=record_counts, delivery_status=delivery_status
    )
    app.add_routes(pages.routes())
    runner = web.AppRunner(
        app,
        handler_cancellation=True,  # a client that leaves aborts its sequence
        access_log=None,
        shutdown_timeout=max(config.drain_s, _STOP_TIMEOUT_S),
    )
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=_LISTEN_BACKLOG).start()
    bound_port: int = runner.addresses[0][1]
    tasks = [asyncio.create_task(engine.run()), asyncio.create_task(meter.run())]

    async def stop() -> None:
        model.cut_after(asyncio.get_running_loop().time() + config.drain_s)
        await runner.cleanup()
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        meter.close()
        for end in ends:
            if isinstance(end, Exception):
                raise end

    url = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}"
    return RunningEngine(url=url, port=bound_port, engine_id=own_id, engine=engine, seen=seen, stop=stop)


def own_engine_id(config: EngineConfig) -> str:
    """Return an id for an engine that starts now."""
    return engine_id(config.engine_name or f"{config.model}-{config.version}", uuid4().hex[:8])


@dataclass(slots=True)
class _Work:
    """How far the answer to one attempt has come. `failed`: the engine broke it off, whatever its status was."""

    words: list[str] = field(default_factory=list)
    tokens: TokenStream | None = None
    failed: bool = False


class _ModelRoutes:
    """The four generating routes of one engine, and what happens around every request."""

    def __init__(self, config: EngineConfig, engine: Engine, seen: SeenLog, accepting: Callable[[], bool]) -> None:
        self._config = config
        self._accepting = accepting
        self._engine = engine
        self._seen = seen
        self._rng = random.Random(config.seed)  # noqa: S311 - decides who fails, not who may enter
        self._noise = random.Random(config.seed)  # noqa: S311 - apart, so that a seed replays the same failures
        self._cut_after_s = math.inf

    def cut_after(self, time_s: float) -> None:
        """Take note of when the engine begins to cut what is open: from then on, that is not the client's doing."""
        self._cut_after_s = time_s

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
        if not self._accepting():
            raise ApiError(503, "The engine cannot keep usage records now, and takes no new work until it can.")
        behaviour = self._engine.behaviour
        fate = behaviour.draw_fate(self._rng)
        job = self._job(call, request.headers, behaviour)
        arrival = read_arrival(request.headers, call.arguments, job, model=self._config.model)
        self._engine.totals.update(mirrored=int(arrival.mirror), retried=int(arrival.attempt > 1))
        self._engine.meter.arrived(job.id, arrival)
        work, ended = _Work(), Ended.FAILED
        try:
            response = await self._answer(request, call, job, fate, work)
            ended = Ended.FAILED if work.failed else Ended.SERVED
        except (asyncio.CancelledError, ConnectionResetError):
            cut = work.failed or asyncio.get_running_loop().time() >= self._cut_after_s
            ended = Ended.FAILED if cut else Ended.LEFT
            raise
        finally:
            finished = work.tokens.finished if work.tokens else None
            self._engine.meter.ended(job.id, finish_reason(ended, finished))
        return response

    async def _answer(self, request: web.Request, call: Call, job: Job, fate: Fate, work: _Work) -> web.StreamResponse:
        if fate is Fate.ERROR:
            raise ApiError(500, "The stand-in engine failed, as its error_rate says.")
        if fate is Fate.HANG:
            await asyncio.Event().wait()
        try:
            behaviour = self._engine.behaviour
            mean = log_probability(behaviour.mean_log_probability, b"".join(call.inputs), self._noise)
            text = words(call.inputs[0], behaviour.repetition)
            with self._engine.sequence(job, text, mean) as tokens:
                work.tokens = tokens
                if call.api is Api.EMBEDDINGS:
                    await tokens.take()
                    return await _send(request, embeddings(call, tokens.result()), fate, work)
                answer = writer(call, job.request_id, int(time.time()))
                if call.stream:
                    fails_after = job.output_tokens // 2 if fate is Fate.STREAM_ERROR else None
                    dies = fate is Fate.DIE_AFTER_FIRST_BYTE
                    return await _stream(request, answer, work, tokens, fails_after=fails_after, dies=dies)
                while new := await tokens.take():
                    work.words += new
                return await _send(request, answer.whole("".join(work.words), tokens.result()), fate, work)
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

    def _job(self, call: Call, headers: Mapping[str, str], behaviour: Behaviour) -> Job:
        cut = prompt(b"".join(call.inputs), call.cache_salt)
        tokens = 0
        if call.api is not Api.EMBEDDINGS:
            tokens = behaviour.output_tokens(call.max_tokens, self._config.default_output_tokens)
        if cut.tokens + tokens > (limit := self._config.max_model_tokens):
            raise ApiError(400, f"{cut.tokens} prompt tokens and {tokens} to come exceed the model's {limit}.")
        # Embeddings have no vllm_xargs: there, tenantry writes TENANT:REQUEST_ID into x-request-id.
        tenant, colon, request_id = headers.get("x-request-id", "").rpartition(":")
        if not colon:
            tenant = headers.get("x-tenantry-tenant", "")
            request_id = headers.get("x-tenantry-request-id", request_id)
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


async def _send(request: web.Request, body: bytes, fate: Fate, work: _Work) -> web.StreamResponse:
    if fate is not Fate.DIE_AFTER_FIRST_BYTE:
        return web.Response(body=body, content_type="application/json")
    work.failed = True
    response = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return _cut(request, response)


async def _stream(
    request: web.Request,
    answer: Writer,
    work: _Work,
    tokens: TokenStream,
    *,
    fails_after: int | None,
    dies: bool,
) -> web.StreamResponse:
    """Send the headers at once, then each token when it is there; fail after so many tokens, or die after one."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    await response.write(answer.opening())
    while new := await tokens.take():
        work.words += new
        await response.write(answer.words(new))
        if dies:
            work.failed = True
            return _cut(request, response)
        if fails_after is not None and len(work.words) >= fails_after:
            work.failed = True
            await response.write(answer.failure(ApiError(500, "The stand-in engine failed, as its behaviour says.")))
            return response
    try:
        await response.write(answer.closing("".join(work.words), tokens.result()))
    except ApiError as error:
        work.failed = True
        await response.write(answer.failure(error))
    return response


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection under an answer, as a dying process does."""
    if request.transport is not None:
        request.transport.abort()
    return response
