"""The load of the meter's benchmark: shapes of requests, and the client that sends them to a vLLM server.

Prompts are random token ids from a seed, so that no prefix is cached and the tokenizer is not measured. A request
bears the stamp that the sidecar would write, with the name of its shape in its id: records and steps are told apart by
it.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import aiohttp

MODEL, VERSION = "tiny-llama", "1.0.0"
WORKERS = 6
"""Requests at a time: a closed loop."""

Ending = Literal["length", "stop", "abort", "chat"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A kind of request: tokens in, tokens out, and an adapter or none. `ending` says how it comes to its end.

    `stop` ends at the first "a" that it writes, `abort` when the client has read a third and leaves; `chat` is a
    streamed conversation, to its full length.
    """

    prompt: int
    output: int
    adapter: str | None = None
    ending: Ending = "length"

    @property
    def name(self) -> str:
        """E.g. `256x32+lora-0`."""
        return f"{self.prompt}x{self.output}{f'+{self.adapter}' if self.adapter else ''}"


SHAPES = (
    Shape(prompt=16, output=4),
    Shape(prompt=16, output=32),
    Shape(prompt=16, output=128, adapter="lora-0"),
    Shape(prompt=64, output=32, adapter="lora-1"),
    Shape(prompt=64, output=128),
    Shape(prompt=256, output=4),
    Shape(prompt=256, output=32, adapter="lora-2"),
    Shape(prompt=1024, output=4),
    Shape(prompt=1024, output=32),
    Shape(prompt=1024, output=128, adapter="lora-0"),
)
"""The ten that fairness is judged on: short chat beside long context, with an adapter and without."""

OTHERS = (
    Shape(prompt=256, output=96, ending="abort"),
    Shape(prompt=64, output=96, ending="stop"),
    Shape(prompt=40, output=24, ending="chat"),
    Shape(prompt=40, output=24, adapter="lora-1", ending="chat"),
)
"""What else goes on meanwhile."""

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog")


class Client:
    """Sends requests to one server, each with an id of its own; all that is random comes from `rng`."""

    def __init__(self, url: str, http: aiohttp.ClientSession, rng: random.Random) -> None:
        self.output_tokens = 0
        self.aborted = 0
        self._url, self._http, self._rng = url, http, rng
        self._numbers = count()

    def name(self, phase: str, shape: Shape) -> str:
        """Return an id for a request: phase, shape, number."""
        return f"{phase}.{shape.name}.{shape.ending}.{next(self._numbers)}"

    async def send(self, request_id: str, shape: Shape) -> None:
        """Send one request and read its answer; raise RuntimeError if the server did not do what was asked."""
        path, body = self._body(shape)
        async with self._http.post(self._url + path, json=body, headers=_stamp(request_id)) as response:
            if response.status != 200:
                raise RuntimeError(f"{request_id}: {response.status} {(await response.text())[:300]}")
            if not body.get("stream"):
                self.output_tokens += (await response.json())["usage"]["completion_tokens"]
                return
            chunks = 0
            async for line in response.content:
                chunks += line.startswith(b"data: {")
                if shape.ending == "abort" and chunks >= shape.output // 3:
                    self.aborted += 1
                    response.close()  # the client leaves
                    return
            self.output_tokens += chunks

    async def mixed(self, phase: str, shapes: Sequence[Shape], workers: int = WORKERS) -> dict[str, Shape]:
        """Send all, in order, `workers` at a time; return the requests by id."""
        asked = {self.name(phase, shape): shape for shape in shapes}
        waiting = iter(asked.items())

        async def work() -> None:
            for request_id, shape in waiting:
                await self.send(request_id, shape)

        await asyncio.gather(*(work() for _ in range(workers)))
        return asked

    def _body(self, shape: Shape) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {
            "model": shape.adapter or MODEL,
            "max_tokens": shape.output,
            "ignore_eos": True,
            "temperature": 0,
        }
        if shape.ending == "chat":
            words = " ".join(self._rng.choice(WORDS) for _ in range(shape.prompt // 5))
            return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": words}], "stream": True}
        body["prompt"] = [self._rng.randrange(256) for _ in range(shape.prompt)]
        if shape.ending == "abort":
            body["stream"] = True
        if shape.ending == "stop":
            body |= {"stop": ["a"], "temperature": 1.0, "seed": self._rng.randrange(1 << 31)}
        return "/v1/completions", body


def _stamp(request_id: str) -> dict[str, str]:
    """Return what the sidecar and Envoy tell an engine of a request."""
    return {
        "x-request-id": request_id,
        "x-envoy-attempt-count": "1",
        "x-tenantry-tenant": "acme",
        "x-tenantry-tier": "gold",
        "x-tenantry-model": MODEL,
        "x-tenantry-version": VERSION,
        "x-tenantry-request-id": request_id,
    }


def load(rng: random.Random, per_shape: int) -> tuple[list[Shape], list[Shape]]:
    """Return two waves: one without adapters, then one of everything; `per_shape` requests of each shape in all.

    An engine that has adapters does not always run one, and steps without are another thing than steps with them.
    """
    plain = [shape for shape in (*SHAPES, *OTHERS) if shape.adapter is None]
    first = [shape for shape in plain for _ in range(per_shape // 2)]
    then = [shape for shape in plain for _ in range(per_shape - per_shape // 2)]
    then += [shape for shape in (*SHAPES, *OTHERS) if shape.adapter for _ in range(per_shape)]
    rng.shuffle(first)
    rng.shuffle(then)
    return first, then
