"""The gate before vector stores: closed until a store is shown to keep tenants apart, and what tenants need is made.

Pinecone is open from the start. No index can be made there to try it on, and nothing is shared that could be taken:
a namespace is Pinecone's own unit of isolation, every call is in exactly one, and ids are of their namespace.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct

from tenantry.adapters.milvus_admin import MilvusAdmin
from tenantry.adapters.store_metrics import StoreMetrics
from tenantry.adapters.store_provisions import Provisions
from tenantry.adapters.store_verdicts import VerdictFile
from tenantry.adapters.store_watch import RECHECK_SECONDS, Connect, Standing, StoreWatch
from tenantry.core.errors import ForbiddenError, UnavailableError
from tenantry.core.rules_stores import Store
from tenantry.core.session import Snapshot, closed
from tenantry.core.vector.calls import Need, StoreOf

_Fingerprint: TypeAlias = tuple[object, ...]


class StoreStatus(Struct, frozen=True, kw_only=True):
    """A store for the operator to see."""

    store: str
    kind: str
    isolation: str
    standing: str
    version: str = ""
    reasons: tuple[str, ...] = ()


class _Kept(Struct, kw_only=True):
    rules: Store
    fingerprint: _Fingerprint
    watch: StoreWatch
    provisions: Provisions
    task: asyncio.Task[None]

    def is_about(self, store: Store) -> bool:
        return store is self.rules or _layout(store) == _layout(self.rules)


class Stores:
    """`StoreGate` over real stores. `verdicts` is the file of proofs; without it each start proves anew."""

    def __init__(
        self,
        metrics: StoreMetrics,
        verdicts: Path | None = None,
        *,
        connect: Connect = MilvusAdmin,
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        self._metrics = metrics
        self._verdicts = None if verdicts is None else VerdictFile(verdicts)
        self._connect = connect
        self._recheck_seconds = recheck_seconds
        self._kept: dict[str, _Kept] = {}
        self._open: dict[str, Store] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def rules_live(self, snapshot: Snapshot) -> None:
        """Watch the stores of a document that goes live; those that did not change stay as they stand."""
        rules, keyring = snapshot.book.rules, snapshot.keyring
        wanted = {name: store for name, store in rules.stores.items() if store.kind == "milvus"}
        for name in self._kept.keys() - wanted.keys():
            self._drop(name)
            self._metrics.gone(name)
        for name, store in wanted.items():
            secret = keyring.store_secret(name)
            fingerprint = _fingerprint(store, secret)
            kept = self._kept.get(name)
            if kept is None or kept.fingerprint != fingerprint:
                self._drop(name)
                self._watch(name, store, secret, fingerprint)
            else:
                kept.rules = store
        open_now = {name: store for name, store in rules.stores.items() if store.kind == "pinecone"}
        for name in self._open.keys() - open_now.keys() - wanted.keys():
            self._metrics.gone(name)
        self._open = open_now
        for name in open_now:
            self._metrics.safe(name, safe=True)

    def check(self, store_of: StoreOf) -> None:
        """Raise RequestRefusedError unless the store, by these rules, was shown to keep tenants apart."""
        store = store_of.name
        if store in self._open:
            return
        kept = self._kept.get(store)
        # An exchange keeps the rules that it began with; what they say of the store may not be what was proven.
        if kept is None or not kept.is_about(store_of.store):
            closed(store_of)
        elif kept.watch.standing is Standing.UNSAFE:
            raise ForbiddenError("store_unsafe", f'The store "{store}" is closed: its operator has to set it up anew.')
        elif kept.watch.standing is not Standing.SAFE:
            raise UnavailableError("store_not_proven", f'The store "{store}" is not in use yet.')

    def provided(self, store_of: StoreOf, need: Need) -> bool:
        """Return whether what a request needs is known to be there."""
        kept = self._kept.get(store_of.name)
        return kept is not None and kept.provisions.met(need)

    async def provide(self, store_of: StoreOf, need: Need) -> None:
        """Make what a request needs; raise RequestRefusedError when that is not possible."""
        self.check(store_of)
        kept = self._kept.get(store_of.name)
        if kept is not None:
            await kept.provisions.meet(need)

    def forget(self, store_of: StoreOf, need: Need) -> None:
        """Forget that a need is met: perhaps the engine said that it is not."""
        kept = self._kept.get(store_of.name)
        if kept is not None:
            kept.provisions.forget(need)

    def status(self) -> list[StoreStatus]:
        """Return how each store stands."""
        opened = [
            StoreStatus(store=name, kind=store.kind, isolation=store.isolation, standing=Standing.SAFE.value)
            for name, store in self._open.items()
        ]
        return opened + [
            StoreStatus(
                store=name, kind=kept.watch.store.kind, isolation=kept.watch.store.isolation,
                standing=kept.watch.standing.value, version=kept.watch.version, reasons=kept.watch.reasons,
            )
            for name, kept in self._kept.items()
        ]  # fmt: skip

    async def stop(self) -> None:
        """Watch nothing any more; drop what a proof that is under way has made."""
        for name in list(self._kept):
            self._drop(name)
        while self._ending:
            await asyncio.gather(*self._ending, return_exceptions=True)

    def _watch(self, name: str, store: Store, secret: str | None, fingerprint: _Fingerprint) -> None:
        provisions = Provisions(name, self._metrics, lambda: watch.admin)
        watch = StoreWatch(
            name, store, secret, connect=self._connect, verdicts=self._verdicts, metrics=self._metrics,
            changed=provisions.forget, recheck_seconds=self._recheck_seconds,
        )  # fmt: skip
        task = asyncio.get_running_loop().create_task(watch.run(), name=f"store {name}")
        self._kept[name] = _Kept(rules=store, fingerprint=fingerprint, watch=watch, provisions=provisions, task=task)

    def _drop(self, name: str) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            ending = asyncio.get_running_loop().create_task(_ended(kept))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)


async def _ended(kept: _Kept) -> None:
    await kept.provisions.stop()
    kept.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await kept.task


def _fingerprint(store: Store, secret: str | None) -> _Fingerprint:
    """Return what a watch depends on; by which hosts clients come, and whether they may flush, is not of it."""
    return (*_layout(store), secret)


def _layout(store: Store) -> _Fingerprint:
    return (
        store.kind, store.endpoints, store.grpc_endpoints, store.tls, store.isolation, store.tenant_field,
        tuple(store.collections.items()),
    )  # fmt: skip
