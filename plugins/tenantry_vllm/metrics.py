"""What an engine's own `/metrics` says of metering: the spool, the disk under it, and faults.

vLLM serves one registry of prometheus_client: that of the process, or with several API servers one of its own that
adds up what they wrote to PROMETHEUS_MULTIPROC_DIR. Whichever it takes, our collector joins it, and reads the `board`
when it is scraped: a few small files in memory, bounded, and nothing where they cannot be read. So all API servers show
the same. The stand-in engine serves the same collector.

prometheus_client is vLLM's; of this package only this module needs it, and imports it only when metrics are served.
"""

import functools
import importlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from msgspec import Struct

from tenantry_vllm.board import Board, EngineStatus
from tenantry_vllm.delivery import DeliveryStatus
from tenantry_vllm.spool_health import DROP_REASONS, DiskState

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["EngineCollector", "install"]

LABELS = ("model", "version", "engine")

_SOURCE = "vllm.v1.metrics.prometheus"
_USER = "vllm.entrypoints.serve.instrumentator.metrics"

_log = logging.getLogger("vllm.tenantry")


_Samples = list[tuple[str, float]]
"""Values of a metric's own label, and the samples."""


class _Family(Struct, frozen=True, kw_only=True):
    """A metric: `samples` are those of one engine at a Unix time, `label` the one they have besides the engine's."""

    name: str
    kind: str
    text: str
    samples: Callable[[EngineStatus, float], _Samples]
    label: str = ""


class EngineCollector:
    """A collector for a registry of prometheus_client; `read` returns the engines, `wall_clock` Unix time."""

    def __init__(
        self, read: Callable[[], Sequence[EngineStatus]], *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._read = read
        self._wall_clock = wall_clock

    def describe(self) -> "list[Metric]":
        """Return the families without samples: a second collector of ours in a registry is told apart by them."""
        return list(_families((), 0.0))

    def collect(self) -> "list[Metric]":
        """Return the families with the samples of all engines."""
        return list(_families(self._read(), self._wall_clock()))


def install(board: Board, tell: Callable[[], None]) -> None:
    """Make vLLM's API server show the board; before each scrape `tell` has its own process write to it."""
    source: Any = importlib.import_module(_SOURCE)
    choose = source.get_prometheus_registry
    if getattr(choose, "_tenantry", False):
        return

    def read() -> list[EngineStatus]:
        tell()
        return board.read()

    @functools.wraps(choose)
    def get_prometheus_registry() -> Any:
        registry = choose()
        try:
            registry.register(EngineCollector(read))
        except ValueError:
            pass  # it is there already: a second application in this process
        except Exception as error:  # noqa: BLE001 - a page without our figures is better than no engine
            _log.error("/metrics will not have tenantry's figures (%s); serving and billing go on.", error)
        return registry

    get_prometheus_registry._tenantry = True  # type: ignore[attr-defined]  # noqa: SLF001 - ours
    for module in filter(None, (source, sys.modules.get(_USER))):
        module.get_prometheus_registry = get_prometheus_registry


def _families(engines: Sequence[EngineStatus], now_s: float) -> "Iterator[Metric]":
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - see above

    for family in _FAMILIES:
        kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        shown = kind(family.name, family.text, labels=[*LABELS, *filter(None, (family.label,))])
        for engine in engines:
            for label, value in family.samples(engine, now_s):
                own = (engine.model, engine.version, engine.engine)
                shown.add_metric([*own, label] if family.label else [*own], value)
        yield shown


def _of_spool(samples: Callable[[DeliveryStatus, float], _Samples]) -> Callable[[EngineStatus, float], _Samples]:
    """Return samples of those engines that have a spool."""

    def read(engine: EngineStatus, now_s: float) -> _Samples:
        delivery = engine.delivery
        return [] if delivery is None or delivery.disk == "none" else samples(delivery, now_s)

    return read


def _figure(read: Callable[[DeliveryStatus], float]) -> Callable[[EngineStatus, float], _Samples]:
    """Return the one sample of an engine that has a spool."""
    return _of_spool(lambda delivery, _: [("", read(delivery))])


def _dropped(delivery: DeliveryStatus, _: float) -> _Samples:
    return [(reason, delivery.dropped.get(reason, 0)) for reason in DROP_REASONS]


def _disk(delivery: DeliveryStatus, _: float) -> _Samples:
    return [(state, float(state == delivery.disk)) for state in get_args(DiskState)]


def _age(delivery: DeliveryStatus, now_s: float) -> _Samples:
    # Counted here: it grows also when the engine's process writes no more.
    return [("", 0.0 if delivery.oldest_ended_s is None else max(0.0, now_s - delivery.oldest_ended_s))]


def _faults(engine: EngineStatus, _: float) -> _Samples:
    return sorted(engine.faults.items())


_FAMILIES = (
    _Family(
        name="tenantry_spool_waiting_records", kind="gauge",
        text="Usage records of this engine that the ledger does not have yet",
        samples=_figure(lambda delivery: delivery.waiting_records),
    ),
    _Family(
        name="tenantry_spool_waiting_bytes", kind="gauge",
        text="Bytes on disk that the ledger does not have yet, those of engines that died included",
        samples=_figure(lambda delivery: delivery.waiting_bytes),
    ),
    _Family(
        name="tenantry_spool_limit_bytes", kind="gauge",
        text="Bytes that the spool may hold",
        samples=_figure(lambda delivery: delivery.limit_bytes),
    ),
    _Family(
        name="tenantry_spool_oldest_waiting_seconds", kind="gauge",
        text="Age of the oldest usage record that the ledger does not have yet, 0 if it has all",
        samples=_of_spool(_age),
    ),
    _Family(
        name="tenantry_spool_dropped_records", kind="counter", label="reason",
        text="Usage records that were lost: nobody is billed for them",
        samples=_of_spool(_dropped),
    ),
    _Family(
        name="tenantry_spool_refused_records", kind="counter",
        text="Usage records that the ledger will never take, kept in refused/: nobody is billed for them",
        samples=_figure(lambda delivery: delivery.refused),
    ),
    _Family(
        name="tenantry_spool_disk_state", kind="gauge", label="state",
        text="1 for how the spool's disk stands: ok, low (less than the reserve), full, error (or it hangs)",
        samples=_of_spool(_disk),
    ),
    _Family(
        name="tenantry_metering_faults", kind="counter", label="hook",
        text="What metering could not do: such usage is billed to nobody, or to the operator",
        samples=_faults,
    ),
)  # fmt: skip
