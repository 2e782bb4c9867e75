"""The stand-in's batching model: transcripts with exact times first, then any order of events."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from tenantry_standin.batching import Batcher, Finished, Job, Limits, QueueFullError, Step, StepCost
from tenantry_standin.prefix_cache import BLOCK_TOKENS, BYTES_PER_TOKEN, PrefixCache, Prompt, prompt

COST = StepCost(fixed_ms=10.0, prefill_token_ms=1.0, decode_sequence_ms=2.0)


def text(tokens: int, fill: bytes = b"x") -> bytes:
    return fill * (tokens * BYTES_PER_TOKEN)


def job(job_id: int, *, tokens: int = 4, output: int = 2, priority: int = 0, ttft_factor: float = 1.0) -> Job:
    cut = prompt(text(tokens, bytes([65 + job_id % 26])))
    return Job(id=job_id, prompt=cut, output_tokens=output, priority=priority, ttft_factor=ttft_factor)


def engine(**limits: int) -> Batcher:
    return Batcher(Limits(**limits), COST)


def steps_until_idle(batcher: Batcher, now_ms: float = 0.0) -> list[tuple[Step, tuple[int, ...], tuple[Finished, ...]]]:
    transcript = []
    while (step := batcher.schedule(now_ms)) is not None:
        now_ms = step.ends_ms
        progress = batcher.complete(now_ms)
        transcript.append((step, progress.tokens, progress.finished))
    return transcript


def test_a_prompt_is_prefilled_then_each_step_brings_one_token() -> None:
    batcher = engine()
    batcher.submit(job(7, tokens=4, output=3), now_ms=100.0)

    first, second, third = steps_until_idle(batcher, now_ms=100.0)

    assert first == (Step(ends_ms=114.0, prefill_tokens=4, decode_sequences=0), (7,), ())
    assert second == (Step(ends_ms=126.0, prefill_tokens=0, decode_sequences=1), (7,), ())
    (finished,) = third[2]
    assert (finished.queue_ms, finished.ttft_ms, finished.tpot_ms) == (0.0, 14.0, 12.0)
    assert (finished.prompt_tokens, finished.output_tokens, finished.finish_reason) == (4, 3, "length")


def test_the_default_cost_is_the_one_measured_on_vllm() -> None:
    assert StepCost().step_ms(prefill_tokens=100, decode_sequences=10) == pytest.approx(7.34 + 7.3 + 2.15)


def test_speed_divides_the_cost_of_a_step() -> None:
    batcher = engine()
    batcher.submit(job(0, tokens=4), now_ms=0.0)
    step = batcher.schedule(0.0, speed=4.0)
    assert step is not None
    assert step.ends_ms == 14.0 / 4


def test_a_long_prompt_is_prefilled_in_chunks_beside_the_decodes() -> None:
    batcher = engine(max_step_tokens=10, max_running=4)
    batcher.submit(job(0, tokens=4, output=5), now_ms=0.0)
    batcher.submit(job(1, tokens=20, output=1), now_ms=0.0)

    work = [(step.prefill_tokens, step.decode_sequences, tokens) for step, tokens, _ in steps_until_idle(batcher)]

    assert work == [(10, 0, (0,)), (9, 1, (0,)), (5, 1, (0, 1)), (0, 1, (0,)), (0, 1, (0,))]


def test_the_queue_is_ordered_by_priority_then_arrival() -> None:
    batcher = engine(max_running=1)
    for job_id, priority in enumerate([5, 5, 0, 9, 0]):
        batcher.submit(job(job_id, output=1, priority=priority), now_ms=float(job_id))
    order = [finished.id for _, _, done in steps_until_idle(batcher, now_ms=5.0) for finished in done]
    assert order == [2, 4, 0, 1, 3]


def test_what_finishes_in_a_step_frees_its_slot_for_the_next() -> None:
    batcher = engine(max_running=1)
    batcher.submit(job(0, output=1), now_ms=0.0)
    batcher.submit(job(1, output=1), now_ms=0.0)
    transcript = steps_until_idle(batcher)
    assert [tokens for _, tokens, _ in transcript] == [(0,), (1,)]
    assert transcript[1][2][0].queue_ms == 14.0


def test_an_abort_within_a_step_gets_no_token_and_frees_the_slot() -> None:
    batcher = engine(max_running=1)
    batcher.submit(job(0, output=50), now_ms=0.0)
    batcher.submit(job(1, output=1), now_ms=0.0)
    batcher.schedule(0.0)
    aborted = batcher.abort(0, now_ms=3.0)
    assert aborted is not None
    assert (aborted.aborted, aborted.finish_reason, aborted.output_tokens, aborted.ttft_ms) == (True, "abort", 0, None)

    assert batcher.complete(14.0).tokens == ()
    batcher.schedule(14.0)
    assert [finished.id for finished in batcher.complete(28.0).finished] == [1]
    assert batcher.abort(1, now_ms=30.0) is None


def test_an_abort_in_the_queue_is_forgotten() -> None:
    batcher = engine(max_running=1)
    for job_id in range(3):
        batcher.submit(job(job_id, output=1), now_ms=0.0)
    aborted = batcher.abort(1, now_ms=4.0)
    assert aborted is not None
    assert aborted.queue_ms == 4.0
    assert [finished.id for _, _, done in steps_until_idle(batcher, now_ms=4.0) for finished in done] == [0, 2]


def test_ttft_factor_holds_the_first_token_back_and_slows_nobody_else() -> None:
    def run(factor: float) -> dict[int, Finished]:
        batcher = engine()
        batcher.submit(job(0, output=40), now_ms=0.0)
        batcher.submit(job(1, output=5, ttft_factor=factor), now_ms=0.0)
        return {finished.id: finished for _, _, done in steps_until_idle(batcher) for finished in done}

    plain, slow = run(1.0), run(5.0)
    assert plain[1].ttft_ms == 18.0
    assert slow[1].ttft_ms == pytest.approx(5 * 18.0, abs=14.0)  # to the end of the step in which it is due
    assert slow[1].tpot_ms == plain[1].tpot_ms
    assert slow[0].ttft_ms == plain[0].ttft_ms


def test_ttft_factor_is_exact_when_nothing_else_runs() -> None:
    batcher = engine()
    batcher.submit(job(0, output=1, ttft_factor=3.0), now_ms=0.0)
    assert steps_until_idle(batcher)[-1][2][0].ttft_ms == 3 * 14.0


def test_ttft_factor_does_not_multiply_the_time_in_the_queue() -> None:
    batcher = engine(max_running=1)
    batcher.submit(job(0, output=10), now_ms=0.0)
    batcher.submit(job(1, output=1, ttft_factor=3.0), now_ms=0.0)
    waited = steps_until_idle(batcher)[-1][2][0]
    assert waited.ttft_ms == waited.queue_ms + 3 * 14.0


def test_no_output_tokens_means_prefill_only() -> None:
    batcher = engine()
    batcher.submit(job(0, output=0), now_ms=0.0)
    ((_, tokens, (finished,)),) = steps_until_idle(batcher)
    assert tokens == ()
    assert (finished.output_tokens, finished.ttft_ms, finished.tpot_ms) == (0, None, None)


def test_a_full_queue_refuses_and_keeps_what_it_has() -> None:
    batcher = engine(max_waiting=2)
    batcher.submit(job(0), now_ms=0.0)
    batcher.submit(job(1), now_ms=0.0)
    with pytest.raises(QueueFullError, match="2 requests are waiting"):
        batcher.submit(job(2), now_ms=0.0)
    assert batcher.waiting == 2


def test_misuse_is_refused() -> None:
    batcher = engine()
    batcher.submit(job(3), now_ms=0.0)
    with pytest.raises(ValueError, match="not greater"):
        batcher.submit(job(3), now_ms=0.0)
    with pytest.raises(RuntimeError, match="call schedule"):
        batcher.complete(0.0)
    batcher.schedule(0.0)
    with pytest.raises(RuntimeError, match="call complete"):
        batcher.schedule(0.0)
    with pytest.raises(ValueError, match="at least max_running"):
        Limits(max_running=10, max_step_tokens=9)


@pytest.mark.parametrize(
    ("first", "second", "cached"),
    [
        (("a", text(40)), ("a", text(40)), 32),
        (("a", text(40)), ("b", text(40)), 0),
        (("a", text(40)), ("", text(40)), 0),
        (("a", text(32)), ("a", text(32)), 16),  # the last token is always computed
        (("a", text(32) + text(16, b"y")), ("a", text(64)), 32),
        (("a", text(16, b"y") + text(32)), ("a", text(32)), 0),
        (("a", text(15)), ("a", text(15)), 0),
    ],
)
def test_cached_tokens_are_whole_leading_blocks_of_the_same_salt(
    first: tuple[str, bytes], second: tuple[str, bytes], cached: int
) -> None:
    batcher = engine()
    for job_id, (salt, data) in enumerate([first, second]):
        batcher.submit(Job(id=job_id, prompt=prompt(data, salt), output_tokens=1), now_ms=0.0)
        ((step, _, (finished,)),) = steps_until_idle(batcher)
    assert finished.cached_tokens == cached
    assert step.prefill_tokens == finished.prompt_tokens - cached


def test_the_cache_is_bounded_and_forgets_the_least_recently_used_tail_first() -> None:
    cache = PrefixCache(max_blocks=4)
    old, new = prompt(text(49), "old"), prompt(text(33), "new")
    cache.insert(old)  # 3 blocks
    cache.insert(new)  # 2 blocks: one of the old must go
    assert len(cache) == 4
    assert cache.match(old) == 32
    cache.insert(prompt(text(33), "newest"))  # `old` was used since, so `new` goes
    assert (cache.match(old), cache.match(new)) == (32, 0)


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Submissions, aborts and half-steps in any order, against what must always hold."""

    @initialize(
        max_running=st.integers(1, 4), spare=st.integers(0, 40), waiting=st.integers(1, 8), blocks=st.integers(0, 6)
    )
    def begin(self, max_running: int, spare: int, waiting: int, blocks: int) -> None:
        self.limits = Limits(
            max_running=max_running,
            max_step_tokens=max_running + spare,
            max_waiting=waiting,
            max_cached_blocks=blocks,
        )
        self.batcher = Batcher(self.limits, COST)
        self.now_ms = 0.0
        self.next_id = 0
        self.step: Step | None = None
        self.live: dict[int, Job] = {}
        self.tokens: dict[int, int] = {}
        self.admitted: set[int] = set()
        self.texts: dict[int, tuple[str, bytes]] = {}

    @rule(
        priority=st.integers(-2, 2),
        output=st.integers(0, 5),
        salt=st.sampled_from(["acme", "globex", ""]),
        fill=st.sampled_from([b"p", b"q"]),
        tokens=st.integers(1, 70),
        factor=st.sampled_from([1.0, 2.5]),
    )
    def submit(self, priority: int, output: int, salt: str, fill: bytes, tokens: int, factor: float) -> None:
        data = text(tokens, fill)
        new = Job(
            id=self.next_id,
            prompt=prompt(data, salt),
            output_tokens=output,
            priority=priority,
            ttft_factor=factor,
            tenant=salt,
        )
        self.next_id += 1
        if self.batcher.waiting == self.limits.max_waiting:
            with pytest.raises(QueueFullError):
                self.batcher.submit(new, self.now_ms)
            return
        self.batcher.submit(new, self.now_ms)
        self.live[new.id], self.tokens[new.id], self.texts[new.id] = new, 0, (salt, data)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.live)))
        finished = self.batcher.abort(job_id, self.now_ms)
        assert finished is not None
        assert finished.aborted
        self.check_finished(finished)
        assert self.batcher.abort(job_id, self.now_ms) is None

    @precondition(lambda self: self.step is None)
    @rule()
    def schedule(self) -> None:
        waiting_before = self.batcher.waiting
        running_before = self.batcher.running
        self.step = self.batcher.schedule(self.now_ms)
        if self.step is None:
            assert not self.live
            return
        assert self.step.ends_ms >= self.now_ms
        assert self.step.prefill_tokens + self.step.decode_sequences <= self.limits.max_step_tokens
        assert self.step.decode_sequences <= running_before
        newly = self.batcher.running - running_before
        assert newly == waiting_before - self.batcher.waiting
        queue = sorted((job.priority, job.id) for job in self.live.values() if job.id not in self.admitted)
        self.admitted.update(job_id for _, job_id in queue[:newly])

    @precondition(lambda self: self.step is not None)
    @rule(late_ms=st.sampled_from([0.0, 3.0]))
    def complete(self, late_ms: float) -> None:
        assert self.step is not None
        self.now_ms = self.step.ends_ms + late_ms
        self.step = None
        progress = self.batcher.complete(self.now_ms)
        assert len(set(progress.tokens)) == len(progress.tokens)
        for job_id in progress.tokens:
            # A token for one that the model of the queue did not admit would be one that jumped it.
            assert job_id in self.admitted
            self.tokens[job_id] += 1
        for finished in progress.finished:
            assert not finished.aborted
            assert finished.id in self.admitted
            assert finished.output_tokens == self.live[finished.id].output_tokens
            self.check_finished(finished)

    def check_finished(self, finished: Finished) -> None:
        job = self.live.pop(finished.id)
        assert finished.tenant == job.tenant
        assert finished.output_tokens == self.tokens[finished.id]
        assert (finished.ttft_ms is None) == (finished.output_tokens == 0)
        assert 0 <= finished.queue_ms <= self.now_ms
        assert finished.cached_tokens % BLOCK_TOKENS == 0
        assert finished.cached_tokens < finished.prompt_tokens
        if finished.cached_tokens:
            salt, data = self.texts[finished.id]
            prefix = data[: finished.cached_tokens * BYTES_PER_TOKEN]
            earlier = [self.texts[other] for other in self.admitted if other != finished.id]
            assert any(other_salt == salt and other.startswith(prefix) for other_salt, other in earlier)

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "batcher"):
            assert self.batcher.waiting + self.batcher.running == len(self.live)
            assert self.batcher.running <= self.limits.max_running

    def teardown(self) -> None:
        """Whatever happened before, all that is left comes to an end, in a bounded number of steps."""
        if not hasattr(self, "batcher"):
            return
        if self.step is not None:
            self.complete(0.0)
        for _ in range(3000):
            self.schedule()
            if self.step is None:
                break
            self.complete(0.0)
        assert not self.live


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
TestAnyOrderOfEvents.settings = settings(stateful_step_count=30)


def test_blocks_are_chained_from_the_salt() -> None:
    same_block_twice = prompt(text(32), "acme").blocks
    assert len(set(same_block_twice)) == 2
    assert not set(same_block_twice) & set(prompt(text(32), "globex").blocks)


def test_an_empty_prompt_still_has_the_token_that_begins_every_sequence() -> None:
    assert prompt(b"") == Prompt(tokens=1, blocks=())
    batcher = engine()
    batcher.submit(replace(job(0, output=1), prompt=prompt(b"")), now_ms=0.0)
    assert steps_until_idle(batcher)[-1][2][0].ttft_ms == 11.0
