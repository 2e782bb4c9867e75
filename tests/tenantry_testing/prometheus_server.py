"""A real Prometheus for tests: scrapes each second, keeps exemplars, evaluates the rules every two seconds."""

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct
from tenantry.adapters.ports import free_port

READY_S = 20.0
RULES_EVERY = "2s"
"""The files leave it to the server, whose usual minute is longer than a test."""


class Job(Struct, frozen=True, kw_only=True):
    """What is scraped as one job: addresses, and the path of the page."""

    targets: tuple[str, ...]
    path: str = "/metrics"


class PrometheusError(Exception):
    """Prometheus did not start, or refused a query; the message is its own."""


class Prometheus:
    """A running Prometheus. Times are Unix seconds."""

    def __init__(self, url: str) -> None:
        self._url = url

    def version(self) -> str:
        return str(self._get("status/buildinfo")["version"])

    def instant(self, expr: str, at_s: float) -> list[dict[str, Any]]:
        """Return the vector at a moment; a scalar as one sample."""
        data = self._get("query", query=expr, time=at_s)
        return list(data["result"]) if data["resultType"] == "vector" else [{"metric": {}, "value": data["result"]}]

    def over(self, expr: str, begin_s: float, end_s: float, step_s: float = 1.0) -> list[dict[str, Any]]:
        """Return the series over a stretch."""
        return list(self._get("query_range", query=expr, start=begin_s, end=end_s, step=step_s)["result"])

    def label_values(self, selector: str, label: str) -> list[str]:
        return list(self._get(f"label/{label}/values", **({"match[]": selector} if selector else {})))

    def exemplars(self, expr: str, begin_s: float, end_s: float) -> list[dict[str, Any]]:
        found = self._get("query_exemplars", query=expr, start=begin_s, end=end_s)
        return [exemplar for series in found for exemplar in series["exemplars"]]

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules with their health and last error."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def targets(self) -> list[dict[str, Any]]:
        return list(self._get("targets")["activeTargets"])

    def _get(self, path: str, **query: object) -> Any:
        address = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise PrometheusError(json.loads(error.read())["error"]) from None


@contextlib.contextmanager
def prometheus(folder: Path, jobs: Mapping[str, Job], rules: Sequence[Path], *, cluster: str) -> Iterator[Prometheus]:
    """Run one inside the `with` block; its files, with the time series, stay in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "prometheus.yaml"
    config.write_text(yaml.safe_dump(_config(folder, jobs, rules, cluster)))
    listen = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={listen}", "--enable-feature=exemplar-storage", "--log.level=warn",
    ]  # fmt: skip
    log = folder / "prometheus.log"
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            _until_ready(f"http://{listen}/-/ready", process, log)
            yield Prometheus(f"http://{listen}")
        finally:
            process.terminate()


def _until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + READY_S
    while True:
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=2):
            return
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise PrometheusError(f"Prometheus did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def _config(folder: Path, jobs: Mapping[str, Job], rules: Sequence[Path], cluster: str) -> dict[str, Any]:
    copies = []
    for path in rules:
        document = yaml.safe_load(path.read_text())
        for group in document["groups"]:
            group["interval"] = RULES_EVERY
        copies.append(folder / path.name)
        copies[-1].write_text(yaml.safe_dump(document))
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": RULES_EVERY},
        "rule_files": [str(copy) for copy in copies],
        "scrape_configs": [
            {
                "job_name": name,
                "metrics_path": job.path,
                "static_configs": [{"targets": list(job.targets), "labels": {"cluster": cluster}}],
            }
            for name, job in jobs.items()
        ],
    }
