"""The stand-in engine's own loop, in simulated time: it depends on no machine."""

import asyncio

import pytest
from tenantry.core.metering.meter import Arrival, EngineIdentity
from tenantry_standin.batching import Finished, Job
from tenantry_standin.engine import Engine, EngineConfig
from tenantry_standin.metering import ColdStartCost, EngineMeter
from tenantry_standin.prefix_cache import prompt
from tenantry_standin.text import words
from tenantry_testing.simulated_time import SimulatedTime

TOKENS = 30


async def answer() -> tuple[Finished, EngineMeter]:
    """Let an engine generate an answer at the measured speed."""
    identity = EngineIdentity(engine="stand-in-e", model="chat-8b", version="1.4.0")
    meter = EngineMeter(identity, ColdStartCost(), 1.0, lambda _record: None)
    finished: list[Finished] = []
    engine = Engine(EngineConfig(model="chat-8b", version="1.4.0"), meter, finished.append)
    running = asyncio.create_task(engine.run())
    job = Job(id=engine.next_id(), prompt=prompt(b"hello"), output_tokens=TOKENS)
    meter.arrived(job.id, Arrival(request_id="r", tenant="acme"))
    with engine.sequence(job, words(b"hello", 0.0), -0.6) as tokens:
        while await tokens.take():
            pass
    running.cancel()
    return finished[0], meter


def test_time_passes_as_simulated_whatever_the_event_loop_rounds() -> None:
    """Left alone, sleeps of 7.555 ms that last 8 ms would make every token 6 % slower than what was measured."""
    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        finished, meter = runner.run(answer())
    assert finished.output_tokens == TOKENS
    a_rounding_ms = 1 / (TOKENS - 1)
    assert finished.tpot_ms == pytest.approx(7.34 + 0.215, abs=a_rounding_ms)
    assert meter.busy_seconds == pytest.approx((TOKENS - 1) * 0.007555 + 0.0074, abs=0.0015)
