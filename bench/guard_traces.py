"""Traffic for the guard's benchmark: one rollout as the requests of its split, on a virtual clock, from a seed.

Units are drawn by Zipf's law (exponent 1.1), belong to Zipf-sized tenants, stick to one version and have temperaments
(random effects, sd 0.7 on log TTFT, log length and the logit of failing). `Weather` adds what healthy platforms do:

| weather | model |
|---|---|
| daily cycle | arrival rate +-60 %, TTFT of both versions +-35 % (log) over 24 h |
| bursts | a few minutes with 4 x the rate and 2.5 x the TTFT for both versions, one failure odds x 3 |
| noisy tenant | during a burst half of all requests are of 30 units of one tenant, with 3 x the TTFT |
| noisy neighbour | beside one pod of a version, now and then, 3 % of the time: TTFT 1.8 x, time per token 1.5 x |
| heavy tails | 2 % of requests take a Pareto (1.2) multiple of their TTFT |
| cold caches | candidate's TTFT 2.5 x at first, fading over 30 requests; 2 x for units that come with a past |
| clients | 3 % leave early, 2 % send what is answered with 400 |
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from math import exp, log, pi, sin, sqrt

from tenantry.core.rollout.signals import Observation, Pair, Sample
from tenantry.core.rollout.trial import Arm

UNIT_SD = 0.7
DAY_S = 86_400.0
UNITS = 20_000
NEWCOMERS = 0.8
"""Without weather, the share of requests that begin a conversation: keeps runs short that are measured in units."""
_UNIT_WEIGHTS = list(accumulate((rank + 1) ** -1.1 for rank in range(UNITS)))
_UNIT_RANGE = range(UNITS)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What the candidate does: factors on times, length and odds of failing; sds of logs, over units and requests."""

    ttft: float = 1.0
    time_per_token: float = 1.0
    length: float = 1.0
    failure_odds: float = 1.0
    failure_rate: float | None = None
    ttft_sd: float = 1.5
    length_sd: float = 1.2
    pair_sd: float = 0.7


POD_SHARE: dict[Arm, float] = {"candidate": 1 / 3, "stable": 1 / 10}
"""Part of a version's requests that one of its pods serves."""

A_LITTLE_WORSE = Fault(ttft=1.1, time_per_token=1.1, length=0.95, failure_odds=1.2)
AT_THE_MARGIN = Fault(ttft=1.25, time_per_token=1.25, length=0.9, failure_odds=2.0)


class _Unit:
    __slots__ = ("arm", "cached_elsewhere", "failing", "length", "name", "past", "tenant", "ttft")

    def __init__(self, rng: random.Random, index: int, tenant: str, share: float, *, started: bool) -> None:
        self.name = f"u{index}"
        self.tenant = tenant
        self.arm: Arm = "candidate" if rng.random() < share else "stable"
        self.ttft = rng.gauss(0.0, UNIT_SD)
        self.length = rng.gauss(0.0, UNIT_SD)
        self.failing = rng.gauss(0.0, UNIT_SD)
        self.past = 3 if started else 0
        self.cached_elsewhere = started and self.arm == "candidate"


class _Spells:
    """Something that is on for `on_s` and off for `off_s`, both on average, exponentially distributed."""

    __slots__ = ("_off_s", "_on_s", "_rng", "_until", "on")

    def __init__(self, rng: random.Random, on_s: float, off_s: float) -> None:
        self._rng, self._on_s, self._off_s = rng, on_s, off_s
        self.on = False
        self._until = rng.expovariate(1.0 / off_s)

    def at(self, now_s: float) -> bool:
        while now_s >= self._until:
            self.on = not self.on
            self._until += self._rng.expovariate(1.0 / (self._on_s if self.on else self._off_s))
        return self.on


class Rollout:
    """One rollout. `requests` yields (seconds, observation) until `candidate_requests` of the candidate's ended."""

    def __init__(self, seed: str, *, percent: float, candidate_requests: int, fault: Fault, weather: bool) -> None:
        self._rng = rng = random.Random(seed)
        self._share = percent / 100.0
        self._candidate_requests = candidate_requests
        self._fault = fault
        self._weather = weather
        tenants = rng.randint(8, 24)
        self._tenants = [f"tenant-{index}" for index in range(tenants)]
        self._tenant_weights = list(accumulate(1.0 / (rank + 1) for rank in range(tenants)))
        self._units: dict[int, _Unit] = {}
        self._newcomers = 0.0 if weather else NEWCOMERS
        duration_s = exp(rng.uniform(log(3_600.0), log(2 * DAY_S)))
        self._rate = candidate_requests / self._share / duration_s
        self._phase = rng.uniform(0.0, 2 * pi)
        base = log(0.01 / 0.99) - 0.2  # the mean over units of failure probabilities is then about 1 %
        self._failure_logit = {"stable": base, "candidate": base + log(fault.failure_odds)}
        self._noise = {
            "ttft": sqrt(fault.ttft_sd**2 - UNIT_SD**2),
            "length": sqrt(fault.length_sd**2 - UNIT_SD**2),
        }

    def requests(self) -> Iterator[tuple[float, Observation]]:
        """Yield the split's requests in the order they end."""
        rng, now_s, done = self._rng, 0.0, 0
        bursts = _Spells(rng, 180.0, 3_600.0)
        neighbours = {"stable": _Spells(rng, 150.0, 4_800.0), "candidate": _Spells(rng, 150.0, 4_800.0)}
        noisy = rng.choice(self._tenants)
        while done < self._candidate_requests:
            rate, slow, odds, noise_tenant = self._rate, 1.0, 1.0, False
            if self._weather:
                tide = sin(2 * pi * now_s / DAY_S + self._phase)
                rate *= 1.0 + 0.6 * tide
                slow = exp(0.35 * tide)
                if bursts.at(now_s):
                    rate, slow, odds = 4.0 * rate, 2.5 * slow, 3.0
                    noise_tenant = rng.random() < 0.5
            now_s += rng.expovariate(rate)
            unit = self._noisy_unit(noisy) if noise_tenant else self._next_unit()
            if noise_tenant:
                slow *= 3.0
            crowded = self._weather and neighbours[unit.arm].at(now_s) and rng.random() < POD_SHARE[unit.arm]
            if crowded:
                slow *= 1.8
            if unit.arm == "candidate":
                done += 1
            sample = self._sample(unit, slow=slow, odds=odds, pace=1.5 if crowded else 1.0, candidate_requests=done)
            yield (
                now_s,
                Observation(
                    tenant=unit.tenant,
                    unit=unit.name,
                    arm=unit.arm,
                    share=self._share,
                    sample=sample,
                    earlier_turns=unit.past,
                ),
            )
            unit.past += 1
            unit.cached_elsewhere = False

    def pairs(self) -> Iterator[tuple[float, Pair]]:
        """Yield mirrored requests: the answers to one prompt differ by `pair_sd` in log length and log TTFT."""
        rng, fault, now_s = self._rng, self._fault, 0.0
        half = fault.pair_sd / sqrt(2.0)
        for _ in range(self._candidate_requests):
            now_s += rng.expovariate(self._rate)
            unit = self._next_unit()
            prompt = rng.gauss(5.0, 1.0) + unit.length
            stable, candidate = (
                Sample(
                    failed=rng.random() < 0.01 * (fault.failure_odds if copy else 1.0),
                    ttft_ms=exp(unit.ttft + rng.gauss(5.0, half)) * (fault.ttft if copy else 1.0),
                    output_tokens=round(exp(prompt + rng.gauss(0.0, half)) * (fault.length if copy else 1.0)) + 1,
                )
                for copy in (False, True)
            )
            yield now_s, Pair(tenant=unit.tenant, unit=unit.name, stable=stable, candidate=candidate)

    def _next_unit(self) -> _Unit:
        if self._rng.random() < self._newcomers:
            return self._unit(-1 - len(self._units), None)
        return self._unit(self._rng.choices(_UNIT_RANGE, cum_weights=_UNIT_WEIGHTS)[0], None)

    def _noisy_unit(self, tenant: str) -> _Unit:
        return self._unit(UNITS + int(self._rng.random() * 30), tenant)

    def _unit(self, index: int, tenant: str | None) -> _Unit:
        unit = self._units.get(index)
        if unit is None:
            rng = self._rng
            owner = tenant or rng.choices(self._tenants, cum_weights=self._tenant_weights)[0]
            started = self._weather and rng.random() < 0.4
            unit = self._units[index] = _Unit(rng, index, owner, self._share, started=started)
        return unit

    def _sample(self, unit: _Unit, *, slow: float, odds: float, pace: float, candidate_requests: int) -> Sample:
        rng, fault = self._rng, self._fault
        if self._fails(unit, odds):
            return Sample(failed=True)
        leaves = False
        if self._weather:
            fate = rng.random()
            if fate < 0.02:
                return Sample(failed=False)  # 400: the client's own
            leaves = fate < 0.05
            if fate > 0.98:
                slow *= rng.paretovariate(1.2)
        length, per_token = rng.gauss(5.0, self._noise["length"]) + unit.length, 20.0 * pace
        if unit.arm == "candidate":
            slow *= fault.ttft
            per_token *= fault.time_per_token
            length += log(fault.length)
            if self._weather:
                slow *= 1.0 + 1.5 * exp(-candidate_requests / 30.0)
                if unit.cached_elsewhere:
                    slow *= 2.0
        tokens = round(exp(length)) + 1
        return Sample(
            failed=None if leaves else False,
            ttft_ms=slow * exp(rng.gauss(5.0, self._noise["ttft"]) + unit.ttft),
            time_per_token_ms=per_token * exp(rng.gauss(0.0, 0.3)),
            output_tokens=None if leaves else min(tokens, 2_048),
            finished=None if leaves else tokens <= 2_048,
            repetitive=False,
        )

    def _fails(self, unit: _Unit, odds: float) -> bool:
        rate = self._fault.failure_rate
        if rate is not None:
            return self._rng.random() < (rate if unit.arm == "candidate" else 0.01)
        logit = self._failure_logit[unit.arm] + unit.failing
        return self._rng.random() * (1.0 + exp(-logit) / odds) < 1.0
