"""A proof of one store from beginning to end: what to prove, in bounded time, and everything dropped again."""

import asyncio
import hashlib
import os
import time
from functools import lru_cache
from importlib.resources import files
from typing import Protocol, TypeVar

from msgspec import Struct

from tenantry.core.rules_stores import Store
from tenantry.core.vector import canaries, probe
from tenantry.core.vector.fit import Shared, survey
from tenantry.core.vector.operator import Steps, StoreCallError
from tenantry.core.vector.probe import Verdict

T = TypeVar("T")

PROOF_SECONDS = 180.0
"""Milvus 2.3.5 takes 12 s, milvus-lite 0.1 s; a cluster that loads slowly gets more."""

CLEAN_SECONDS = 5.0


class Admin(Protocol):
    """What a proof and provisioning need of a store's client (`milvus_admin.MilvusAdmin`)."""

    async def version(self) -> str:
        """Return the engine's version, "" when it does not tell."""

    async def perform(self, steps: Steps[T]) -> T:
        """Do what the steps ask for."""

    async def disturbed(self) -> None:
        """Return when a connection ended, so that another engine may be there now."""

    async def aclose(self) -> None:
        """End."""


class Found(Struct, frozen=True, kw_only=True):
    """A store as it is now. `key` changes with everything that a proof depends on."""

    version: str
    shared: tuple[Shared, ...]
    key: str

    @property
    def engine(self) -> str:
        """The engine in words."""
        return self.version or "this engine (it tells no version)"


async def find(admin: Admin, name: str, store: Store) -> Found:
    """Look at a store; raise StoreCallError when it cannot be reached."""
    version = await admin.version()
    shared = tuple(await admin.perform(survey(store)))
    parts = [
        rewriting(), name, version, store.isolation, store.tenant_field,
        repr((store.endpoints, store.grpc_endpoints)),
        *(f"{each.physical} {each.digest} {each.problems}" for each in shared),
    ]  # fmt: skip
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return Found(version=version, shared=shared, key=key)


async def prove(admin: Admin, name: str, store: Store, found: Found) -> list[Verdict]:
    """Return a verdict for each kind of collection in the store; raise StoreCallError when there was none to be had."""
    try:
        async with asyncio.timeout(PROOF_SECONDS):
            await admin.perform(canaries.sweep(store, time.time()))
            if store.collections:
                return await _prove_shared(admin, name, store, found)
            return await _prove_own(admin, name, store, found)
    except TimeoutError:
        raise StoreCallError("proof", "unreachable", f"it took more than {PROOF_SECONDS:.0f} s") from None


async def _prove_own(admin: Admin, name: str, store: Store, found: Found) -> list[Verdict]:
    pairs = await admin.perform(canaries.free_pairs(store, _random_pair(), len(probe.OWN_KINDS)))
    scratches = [canaries.scratch_of(name, store, _scratch_name(), pair, None) for pair in pairs]
    return await asyncio.gather(
        *(
            _once(admin, scratch, probe.prove_own(scratch, kind, found.engine))
            for kind, scratch in zip(probe.OWN_KINDS, scratches, strict=True)
        )
    )


async def _prove_shared(admin: Admin, name: str, store: Store, found: Found) -> list[Verdict]:
    verdicts = [
        Verdict(about=shared.physical, safe=False, reason=problem)
        for shared in found.shared
        for problem in shared.problems
    ]
    proven: dict[str, Verdict] = {}
    for shared in found.shared:
        if shared.problems:
            continue
        if shared.digest not in proven:  # equal collections (those of a `spread`) are proven once
            scratch = canaries.scratch_of(name, store, _scratch_name(), _random_pair(), shared.rules)
            proven[shared.digest] = await _once(admin, scratch, probe.prove_shared(scratch, shared, found.engine))
        known = proven[shared.digest]
        verdicts.append(Verdict(about=shared.physical, safe=known.safe, reason=known.reason))
    return verdicts


async def _once(admin: Admin, scratch: canaries.Scratch, steps: Steps[Verdict]) -> Verdict:
    try:
        return await admin.perform(steps)
    finally:
        # Also when we are stopped half-way. What cannot be dropped now is known by its name, and dropped next time.
        try:
            async with asyncio.timeout(CLEAN_SECONDS):
                await admin.perform(canaries.clean(scratch))
        except (TimeoutError, StoreCallError):
            pass


def _random_pair() -> int:
    return int.from_bytes(os.urandom(2)) % canaries.PAIRS


def _scratch_name() -> str:
    return canaries.scratch_name(time.time(), os.urandom(4))


@lru_cache(maxsize=1)
def rewriting() -> str:
    """Return a hash of the code that rewrites requests: what is proven is that code together with an engine."""
    folder = files("tenantry.core.vector")
    sources = sorted(
        (f"{part}/{file.name}", file.read_bytes())
        for part, where in ((".", folder), ("_pb", folder / "_pb"))
        for file in where.iterdir()
        if file.name.endswith(".py")
    )
    return hashlib.sha256(repr(sources).encode()).hexdigest()
