"""Values of labels, each of a set that has a bound; and series that are looked up once."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Protocol, TypeVar

from prometheus_client import disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter

OTHER = "other"
MAX_VERSIONS = 500
"""Versions of all models together, and models."""
MAX_TIERS = 100
MAX_EXEMPLAR = 128
"""Characters of an exemplar's labels and values together (OpenMetrics)."""

_STATUSES = {int(status): str(int(status)) for status in HTTPStatus} | {0: "0"}

Metric = TypeVar("Metric", bound=MetricWrapperBase)


class Labels(Protocol):
    """Names that may be label values; any other becomes one."""

    def __getitem__(self, name: str) -> str:
        """Return the label of a name."""


class BoundedLabels:
    """Names that may be label values: at most `limit`, first come, never taken back."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._admitted: set[str] = set()

    def admit(self, names: Iterable[str]) -> None:
        """Admit names in order while there is room."""
        for name in names:
            if len(self._admitted) >= self.limit:
                return
            self._admitted.add(name)

    def __getitem__(self, name: str) -> str:
        return name if name in self._admitted else OTHER


class Children(dict[tuple[str, ...], Metric]):
    """The series of a metric by the values of its labels: a look-up costs 0.1 us, by `labels()` 2 us and a lock."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def __missing__(self, values: tuple[str, ...]) -> Metric:
        child = self[values] = self._metric.labels(*values)
        return child


def status(code: int) -> str:
    """Return the label of an HTTP status: one that is registered, 0 for none; an upstream may make up any other."""
    return _STATUSES.get(code, OTHER)


def exemplar(request_id: str) -> dict[str, str] | None:
    """Return an exemplar that names the request, None where no exemplar may be so long."""
    if not request_id or len("request_id") + len(request_id) > MAX_EXEMPLAR:
        return None
    return {"request_id": request_id}
