"""Rules and secrets reloaded while traffic flows: all or nothing (invariant 9).

A bad document changes nothing: the last good snapshot serves on, a metric and a log line say so,
and `status` keeps the reasons for whoever asks. Folders are watched, not files, so that the
kubelet's way of updating a mounted ConfigMap (a swap of the `..data` symlink) is seen too; an
event whose bytes did not change is no reload.
"""

import asyncio
import sys
from pathlib import Path
from typing import Literal

from msgspec import Struct
from watchfiles import Change, awatch

from tenantry.adapters import logs
from tenantry.adapters.envoy_clusters import ClustersNotReadyError, EnvoyClusters
from tenantry.adapters.rules_aside import book_of
from tenantry.adapters.rules_file import Source, snapshot_of
from tenantry.adapters.sidecar import Sidecar
from tenantry.core.errors import RulesError, TenantryError
from tenantry.core.rules import Rules, not_acted_on

CLUSTER_TIMEOUT_SECONDS = 15.0
LINGER_SECONDS = 5.0
"""How long a removed version's cluster stays: decisions on their way to Envoy must still find it."""
RECHECK_MILLISECONDS = 5_000
"""Some file systems send no events; the bytes are compared this often anyway."""
SWITCH_SECONDS = 0.0005
"""How long a thread that reads rules may keep the interpreter from the event loop. Python's 5 ms were waited several
times in one exchange: reloads of 100 tenants took p99 from 6 to 18-23 ms, with this to 14 (bench.reload)."""


class Status(Struct, frozen=True, kw_only=True):
    """What the newest document came to: `live`, or `refused` and why."""

    state: Literal["live", "refused"]
    digest: str
    problems: tuple[str, ...] = ()


class Reloader:
    """Keeps a Sidecar on the newest good document of a Source."""

    def __init__(self, source: Source, sidecar: Sidecar, clusters: EnvoyClusters, digest: str) -> None:
        self._source = source
        self._sidecar = sidecar
        self._clusters = clusters
        self._retire: asyncio.TimerHandle | None = None
        self._lingering: list[tuple[float, Rules]] = []
        self.status = Status(state="live", digest=digest)

    async def run(self) -> None:
        """Watch until cancelled."""
        sys.setswitchinterval(SWITCH_SECONDS)
        secrets = self._source.secrets.resolve()

        def concerns_us(_change: Change, path: str) -> bool:
            changed = Path(path)
            return changed.parent == secrets or self._source.concerns_rules(changed)

        async for _ in awatch(
            self._source.watched(), secrets, watch_filter=concerns_us, debounce=20, step=10, recursive=False,
            yield_on_timeout=True, rust_timeout=RECHECK_MILLISECONDS,
        ):  # fmt: skip
            await self.check()

    async def check(self) -> None:
        """Reload when the bytes changed since the last look."""
        digest = "unreadable"
        try:
            raw, files = await asyncio.to_thread(self._source.read)
            digest = self._source.digest(raw, files)
            if digest == self.status.digest:
                return
            snapshot = snapshot_of(await book_of(raw), files)
            old, new = self._sidecar.snapshot.book.rules, snapshot.book.rules
            await self._await_clusters(new)
            self._sidecar.activate(snapshot)
        except ClustersNotReadyError as error:
            # Not the document's fault alone (an Envoy may be restarting): the next look tries again.
            self._refuse(f"{digest} awaiting clusters", error)
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, the last good document serves on and the watch too
            self._refuse(digest, error)
            return
        self._linger(old)
        self.status = Status(state="live", digest=digest)
        logs.get().info(
            "rules live", digest=digest, generation=self._sidecar.generation, models=len(new.models),
            tenants=len(new.tenants), notes=not_acted_on(new),
        )  # fmt: skip

    def _refuse(self, digest: str, error: Exception) -> None:
        if self.status.state == "refused" and self.status.digest == digest:
            return
        problems: tuple[str, ...] = (f"internal error: {type(error).__name__}",)
        if isinstance(error, RulesError):
            problems = tuple(map(str, error.problems))
        elif isinstance(error, TenantryError | OSError):
            problems = (str(error),)
        self.status = Status(state="refused", digest=digest, problems=problems)
        self._sidecar.metrics.rules_refused()
        logs.get().error(
            "rules refused; the last good document stays live", digest=digest, problems=problems, exc_info=error
        )

    async def _await_clusters(self, new: Rules) -> None:
        self._publish(new)
        try:
            await self._clusters.wait_for(new, CLUSTER_TIMEOUT_SECONDS)
        except Exception:
            self._publish()
            raise

    def _publish(self, *coming: Rules) -> None:
        """Publish the live document's clusters, those of documents just replaced, and what is `coming`."""
        now = asyncio.get_running_loop().time()
        self._lingering = [(until, rules) for until, rules in self._lingering if until > now]
        live = self._sidecar.snapshot.book.rules
        self._clusters.publish(*(rules for _, rules in self._lingering), live, *coming)
        if self._retire is not None:
            self._retire.cancel()
        if self._lingering and not coming:
            self._retire = asyncio.get_running_loop().call_at(self._lingering[-1][0], self._publish)

    def _linger(self, replaced: Rules) -> None:
        """Keep a replaced document's clusters for a while; reloads that follow quickly do not cut it short."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LINGER_SECONDS
        self._lingering.append((until, replaced))
        self._retire = loop.call_at(until, self._publish)
