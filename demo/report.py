"""The report as data: the keys of out/demo/report.json. Every figure comes from the run itself."""

from msgspec import Struct

from demo.report_bills import AmountReport, MeteringReport


class Quantiles(Struct, frozen=True, kw_only=True):
    """Median and 99th percentile (nearest rank) of `n` values; None without any."""

    p50: float | None
    p99: float | None
    n: int


class TenantReport(Struct, frozen=True, kw_only=True):
    """One tenant.

    `requests` are POSTs that a client sent on the model routes, `versions` who served them by the
    engines' own record, `expected_version` who was to serve all of them. `forged_*_upstream` count
    what an engine saw of the client's forgeries. `ttfb_ms` (Envoy's access log) and `ttft_ms` (the client's
    clock, to the first content) are of streamed requests; `stream_tokens_per_s` is the median
    over streams, after the first token. `chunks` counts chunks of all streams. By the ledger, of all models:
    `gpu_seconds` and `compute_units` of its requests, and what its `invoice` comes to (None while the play is on).
    """

    tier: str
    rule: str
    requests: int
    streamed: int
    embeddings: int
    errors: int
    versions: dict[str, int]
    expected_version: str
    priority_upstream: list[int]
    forged_headers_sent: int
    forged_headers_upstream: int
    forged_members_upstream: int
    client_key_upstream: int
    ttfb_ms: Quantiles
    ttft_ms: Quantiles
    stream_tokens_per_s: float | None
    output_tokens: int
    chunks: int
    ext_proc_messages_per_request: float | None
    gpu_seconds: float = 0.0
    compute_units: float = 0.0
    invoice: AmountReport | None = None


class VerdictReport(Struct, frozen=True, kw_only=True):
    """What took a candidate back. `scope` is `fleet`, `tier:NAME` or `tenant:NAME`, `who` is `guard` or a person.

    `log_e` and `log_threshold` are of the `signal` that decided, in natural logarithms; `units_to_revert` are the
    candidate's units that this signal had read by then. `at_s` counts from the beginning of the traffic,
    `seconds_after_start` from the candidate's first request.
    """

    scope: str
    who: str
    signal: str
    log_e: float
    log_threshold: float
    units_to_revert: int
    why: str
    at_s: float
    seconds_after_start: float


class CrowdReport(Struct, frozen=True, kw_only=True):
    """One tenant's requests to a rollout's model; `units` were the split's to decide, none of a pinned tenant's."""

    pinned: bool
    requests: int
    units: int
    candidate_requests: int


class Bin(Struct, frozen=True, kw_only=True):
    """What began in one slice of time: requests by the version that served them."""

    at_s: float
    versions: dict[str, int]


class EvidencePoint(Struct, frozen=True, kw_only=True):
    """The fleet's largest log e-value over its threshold at one moment: 1 is a verdict."""

    at_s: float
    suspicion: float


class RolloutReport(Struct, frozen=True, kw_only=True):
    """A model's rollout.

    `units` were the split's to decide (here each request is one), `candidate_share` is the candidate's part of them,
    for a rollout by beta flag alone its part of all requests. `mirrored` are copies of requests: the candidate answered
    them to nobody, and no tenant's log has them. `after_verdict` are the
    candidate's requests that were sent after it. `answer_ms` is of whole units by the clients' clocks, by version.
    """

    candidate: str
    state: str
    candidate_requests: int
    candidate_share: float
    requests: int
    stable: str = ""
    story: str = ""
    expected_state: str = ""
    percent: float = 0.0
    mirror_percent: float = 0.0
    units: int = 0
    candidate_units: int = 0
    mirrored: int = 0
    verdict: VerdictReport | None = None
    after_verdict: int = 0
    tenants: dict[str, CrowdReport] = {}
    answer_ms: dict[str, Quantiles] = {}
    bin_s: float = 0.0
    timeline: list[Bin] = []
    evidence: list[EvidencePoint] = []


class ForgeryReport(Struct, frozen=True, kw_only=True):
    """One forged header or body member: what the client wrote, how often, and what the engines saw instead."""

    where: str
    name: str
    value: str
    sent: int
    reached: int
    engine_saw: str


class VersionReport(Struct, frozen=True, kw_only=True):
    """One version: the requests it served, the speed of its streams, and the tenants it served them for."""

    requests: int
    stream_tokens_per_s: float | None
    tenants: list[str]


class ProbeReport(Struct, frozen=True, kw_only=True):
    """One kind of request on its own: chunks to the client against ext_proc messages."""

    requests: int
    chunks: int
    ext_proc_messages: int


class ReloadReport(Struct, frozen=True, kw_only=True):
    """The edit of the rules while requests flowed. `during` requests were sent between saving and live."""

    change: str
    at_s: float
    live_after_ms: float
    requests_during: int
    failed_requests: int


class RefusalReport(Struct, frozen=True, kw_only=True):
    """A request that had to be refused."""

    what: str
    path: str
    expected: int
    status: int
    message: str


class VectorTenantReport(Struct, frozen=True, kw_only=True):
    """One tenant's retrieval: its questions, the rows that answered them, and its rows by the engine's own count.

    `answer_ms` is by the client's clock. `collections` are the real names of those that hold its rows.
    """

    queries: int
    failed: int
    rows_answered: int
    foreign_rows: int
    answer_ms: Quantiles
    rows_before: int
    rows_after: int
    collections: list[str]


class VectorQuestionReport(Struct, frozen=True, kw_only=True):
    """A question that every tenant asked. By tenant: each nearest text, and each list of titles, that ever came."""

    question: str
    title: str
    answers: dict[str, list[str]]
    titles: dict[str, list[str]]


class VectorAttackReport(Struct, frozen=True, kw_only=True):
    """An attack: `refused` with a `status`, `harmless` (own rows, or nothing), `leaked`, or `failed` to be tried."""

    what: str
    outcome: str
    status: str
    message: str
    own_rows: int = 0
    foreign_rows: int = 0


class VectorReport(Struct, frozen=True, kw_only=True):
    """Retrieval. `not_run` says why it did not run; all figures are empty then.

    `queries` are tenants' questions, `foreign_rows` those that came back to a question or to an attack.
    `standing` is what the sidecar's proof said, of the engine that `proven` names. `rows_verified` and
    `answers_withheld` are the sidecar's own counts.
    """

    queries: int = 0
    attacks: int = 0
    foreign_rows: int = 0
    rows_lost: int = 0
    not_run: str = ""
    error: str = ""
    engine: str = ""
    sdk: str = ""
    embeddings: str = ""
    standing: str = ""
    proven: str = ""
    rows_verified: int = 0
    answers_withheld: int = 0
    tenants: dict[str, VectorTenantReport] = {}
    questions: list[VectorQuestionReport] = []
    tried: list[VectorAttackReport] = []


class Expectation(Struct, frozen=True, kw_only=True):
    """Something that had to hold, whether it did, and the figures behind it."""

    what: str
    held: bool
    detail: str


class Timeline(Struct, frozen=True, kw_only=True):
    """Requests over time, by tenant; `bin_s` is the width of a slice, `end_s` the end of the traffic."""

    bin_s: float
    end_s: float
    tenants: dict[str, list[Bin]]


class Report(Struct, frozen=True, kw_only=True):
    """The whole report. `started` is when the traffic began (UTC, ISO 8601)."""

    engine: str
    engine_note: str
    seed: int
    ok: bool
    started: str
    seconds: float
    versions: dict[str, str]
    requests: int
    failed_requests: int
    tenants: dict[str, TenantReport]
    rollouts: dict[str, RolloutReport]
    vector: VectorReport
    metering: MeteringReport
    model_versions: dict[str, VersionReport]
    expectations: list[Expectation]
    refusals: list[RefusalReport]
    forgery: list[ForgeryReport]
    probes: dict[str, ProbeReport]
    reload: ReloadReport | None
    sources: dict[str, str]
    timeline: Timeline
