"""What the ledger counts of requests: GPU time, compute units, tokens, memory, and how long everything took.

`tenant` has a bound (`metrics.maxTenants`), and so have tiers, models and versions. Exemplars name the request.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram

from tenantry.adapters.labels import Children, exemplar
from tenantry.adapters.sla_metrics import FirstTokens
from tenantry.core.billing.ownership import owner_alone
from tenantry.core.usage import Training, UsageRecord

_MEMORY_BYTES = tuple(float(4**power * 2**20) for power in range(10))  # 1 MiB to 256 GiB
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_SECOND_NS = 1e9
_SERVED = ("tenant", "model", "version")


class RequestMetrics:
    """Counters are told each record once, and histograms each attempt that ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._gpu = self._counter(
            "gpu_seconds", "GPU time of requests and training", ("tenant", "tier", "model", "version", "phase", "owner")
        )
        self._units = self._counter("compute_units", "Compute units", ("tenant", "model", "tier", "owner"))
        self._tokens = self._counter("tokens", "Tokens by kind: input, cached, output", ("tenant", "model", "kind"))
        self._kv = self._counter("kv_byte_seconds", "KV-cache memory held, over time", _SERVED)
        self._finished = self._counter("finished_requests", "Attempts by how they ended", (*_SERVED, "reason"))
        self._memory = self._histogram(
            "request_peak_memory_bytes", "Most KV-cache memory that a request held", _SERVED, _MEMORY_BYTES
        )
        self._queue = self._histogram("queue_seconds", "In the engine before the first prefill step", _SERVED, _SECONDS)
        self._first = self._histogram(
            "time_to_first_token_seconds", "From arrival in the engine to the first token", _SERVED, _SECONDS
        )
        self._later = self._histogram(
            "time_per_output_token_seconds", "Mean of a request's later tokens", _SERVED, _TOKEN_SECONDS
        )
        self._in_time = FirstTokens(registry)

    def request(
        self, record: UsageRecord, units_micro: int, *, tenant: str, tier: str, model: str, version: str,
        ttft_seconds: float | None,
    ) -> None:  # fmt: skip
        """Count a record under these labels; `ttft_seconds` is what its tier was promised, None: nothing."""
        served = (tenant, model, version)
        charge, owner, named = record.charge, owner_alone(record), exemplar(record.request_id)
        for phase, gpu_ns in (("prefill", charge.prefill_gpu_ns), ("decode", charge.decode_gpu_ns)):
            if gpu_ns:
                self._gpu[tenant, tier, model, version, phase, owner].inc(gpu_ns / _SECOND_NS, named)
        if units_micro:
            self._units[tenant, model, tier, owner].inc(units_micro / 1e6, named)
        for kind, count in (
            ("input", charge.input_tokens), ("cached", charge.cached_tokens), ("output", charge.output_tokens)
        ):  # fmt: skip
            if count:
                self._tokens[tenant, model, kind].inc(count, named)
        if charge.kv_byte_ms:
            self._kv[served].inc(charge.kv_byte_ms / 1e3)
        if record.final:
            self._ended(record, served, named)
            if ttft_seconds is not None and record.ttft_ms is not None and not record.mirror:
                self._in_time.came(tier, model, late=record.ttft_ms > ttft_seconds * 1e3)

    def training(self, record: Training, tenant: str, tier: str, model: str) -> None:
        """Count the GPU time of a training job."""
        self._gpu[tenant, tier, model, "", "training", "tenant"].inc(record.gpu_ns / _SECOND_NS)

    def _ended(self, record: UsageRecord, served: tuple[str, ...], named: dict[str, str] | None) -> None:
        self._finished[*served, str(record.finish_reason)].inc()
        if record.peak_kv_bytes is not None:
            self._memory[served].observe(record.peak_kv_bytes, named)
        if record.mirror or record.measured != "engine":
            return  # nobody waited for a copy, and what was estimated has no times
        self._queue[served].observe(record.queue_ms / 1e3, named)
        if record.ttft_ms is not None:
            self._first[served].observe(record.ttft_ms / 1e3, named)
        if record.time_per_token_ms is not None:
            self._later[served].observe(record.time_per_token_ms / 1e3, named)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Children[Counter]:
        return Children(Counter(f"tenantry_{name}", text, labels, registry=self._registry))

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Children[Histogram]:
        return Children(Histogram(f"tenantry_{name}", text, labels, buckets=buckets, registry=self._registry))
