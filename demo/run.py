"""What was recorded while the demo ran: the material of the report. Times are Unix seconds."""

from collections.abc import Mapping

from msgspec import Struct
from tenantry.adapters.rollout_status import Status
from tenantry.core.billing.operator import Bills
from tenantry.core.billing.tallies import EngineTally, Tally
from tenantry.core.outcome import Outcome
from tenantry.core.rollout.conduct import Entry

from demo.retrieval_run import RetrievalRun
from demo.scenario import Route, Scenario


class Call(Struct, frozen=True, kw_only=True):
    """One request, as its client saw it.

    `status` is 0 when there was no answer; `request_id` is the one that the answer carried, `error`
    empty when all went well. `ttft_ms` runs to the first content of a stream. `chunks` counts every
    chunk of the stream, `forged_headers` those that went out on the wire.
    """

    tenant: str
    route: Route
    streamed: bool
    sent_s: float
    ended_s: float
    status: int
    request_id: str = ""
    ttft_ms: float | None = None
    chunks: int = 0
    output_tokens: int = 0
    forged_headers: int = 0
    error: str = ""


class CrowdCall(Struct, frozen=True, kw_only=True):
    """One request of a rollout's load, as its client saw it. `version` is what the engine that answered says it is."""

    tenant: str
    model: str
    sent_s: float
    ended_s: float
    status: int
    request_id: str = ""
    version: str = ""
    error: str = ""


class Look(Struct, frozen=True, kw_only=True):
    """A rollout at one moment, as the sidecar's admin listener shows it."""

    at_s: float
    status: Status


class EngineCount(Struct, frozen=True, kw_only=True):
    """What an engine counted itself: the requests it answered, copies included, and the copies among them."""

    model: str
    version: str
    requests: int
    copies: int


class Arrival(Struct, frozen=True, kw_only=True):
    """One request, as the engine of `version` recorded it; `number` counts from 1 without gaps."""

    version: str
    number: int
    time_s: float
    path: str
    headers: tuple[tuple[str, str], ...]
    body: Mapping[str, object]

    def header(self, name: str) -> str:
        """Return the values of a header, joined by a comma when it stands more than once."""
        return ",".join(value for key, value in self.headers if key.lower() == name)


class Refused(Struct, frozen=True, kw_only=True):
    """A request that had to be refused, and what came."""

    what: str
    path: str
    expected: int
    status: int
    message: str


class Conversation(Struct, frozen=True, kw_only=True):
    """A tenant's ext_proc messages and exchanges over a stretch of the run, from the sidecar's metrics."""

    messages: float
    exchanges: float

    def __sub__(self, earlier: "Conversation") -> "Conversation":
        return Conversation(messages=self.messages - earlier.messages, exchanges=self.exchanges - earlier.exchanges)

    @property
    def per_exchange(self) -> float | None:
        """Messages per exchange, None without an exchange."""
        return self.messages / self.exchanges if self.exchanges else None


class Probe(Struct, frozen=True, kw_only=True):
    """One kind of request on its own: what the client counted, and its share of the sidecar's messages."""

    requests: int
    chunks: int
    conversation: Conversation


class Reload(Struct, frozen=True, kw_only=True):
    """The edit of the rules: when the file was saved, and when its document was live."""

    saved_s: float
    live_s: float


class Books(Struct, frozen=True, kw_only=True):
    """What the ledger says once the engines have ended: of each billing period that the play was in, oldest first.

    `tallies` are by tenant, model and version. `own` is what a tenant read with its own API key, and
    `foreign_status` what it was answered when it asked for another's invoice.
    """

    tallies: tuple[Tally, ...] = ()
    engines: tuple[EngineTally, ...] = ()
    bills: tuple[Bills, ...] = ()
    own: Bills = Bills()
    foreign_status: int = 0


class Run(Struct, frozen=True, kw_only=True):
    """Everything. `keys` and `engine_secret` are there to be looked for; they never leave memory.

    `outcomes` are those of MODEL. Of the rollouts there are `crowd_calls`, `crowd_outcomes`, `looks` at them in
    order, `history` by model, and `engine_counts`. `conversations` cover the stretch in which only POSTs were sent.
    `traffic_s` are its beginning and end, `total_s` is how long the demo took in all.
    """

    scenario: Scenario
    seed: int
    versions: Mapping[str, str]
    keys: Mapping[str, str]
    engine_secret: str
    record_source: str
    calls: tuple[Call, ...]
    arrivals: tuple[Arrival, ...]
    outcomes: tuple[Outcome, ...]
    refusals: tuple[Refused, ...]
    models_listed: Mapping[str, tuple[str, ...]]
    probes: Mapping[str, Probe]
    conversations: Mapping[str, Conversation]
    reload: Reload | None
    traffic_s: tuple[float, float]
    total_s: float
    crowd_calls: tuple[CrowdCall, ...] = ()
    crowd_outcomes: tuple[Outcome, ...] = ()
    looks: tuple[Look, ...] = ()
    history: Mapping[str, tuple[Entry, ...]] = {}
    engine_counts: tuple[EngineCount, ...] = ()
    books: Books = Books()
    retrieval: RetrievalRun = RetrievalRun(not_run="nothing was recorded yet")
