"""The sidecar as a process: everything started in order, drained on SIGTERM, nothing left behind."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TextIO

import msgspec
from msgspec import Struct

from tenantry.adapters import logs
from tenantry.adapters.admin import Admin
from tenantry.adapters.bind import Address, Tls, require_safe
from tenantry.adapters.console.document import Sources
from tenantry.adapters.console.page import Console
from tenantry.adapters.console.traffic import Traffic
from tenantry.adapters.console.usage import LedgerUsage
from tenantry.adapters.envoy_clusters import EnvoyClusters
from tenantry.adapters.grpcio_transport import GrpcioTransport
from tenantry.adapters.ledger_outbox import LedgerOutbox
from tenantry.adapters.memory import keep_freed_memory
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.quotas.accounts import Accounts
from tenantry.adapters.quotas.desk import Quotas
from tenantry.adapters.reckoning import Reckoning
from tenantry.adapters.reload import Reloader
from tenantry.adapters.rollouts import Rollouts
from tenantry.adapters.rules_file import Source
from tenantry.adapters.sidecar import OutcomeSink, Sidecar, Tracer
from tenantry.adapters.state import open_state
from tenantry.adapters.stores import Stores
from tenantry.adapters.telemetry import telemetry
from tenantry.adapters.webhook import Webhook
from tenantry.core.errors import TenantryError
from tenantry.core.outcome import Outcome
from tenantry.core.rules import Rules, not_acted_on
from tenantry.core.usage import UsageRecord

WEBHOOK_SECONDS = 2.0
"""How long the end waits for the webhook's receiver."""


class ServeOptions(Struct, frozen=True, kw_only=True):
    """What one sidecar process needs to know.

    `cds` is the cluster file it keeps for Envoy, `envoy_admins` (http://host:port) are asked whether
    a new version's cluster is there; `outcomes` is a file that gets one JSON line per exchange.
    `state` is the SQLite file of this machine's rollouts, `redis` the URL of the store that replicas
    elsewhere share with it. `local_admin` is `admin` once more without certificates, on loopback or a unix socket, for
    operators on this machine. `telemetry` is where kubelet and Prometheus ask. `ledger` is the URL that
    gets the records which the sidecar itself makes. `traces` is the OTLP/HTTP endpoint for spans.
    """

    rules: Path
    secrets: Path
    listen: Address
    admin: Address
    local_admin: Address | None = None
    state: Path
    telemetry: Address | None = None
    redis: str | None = None
    tls: Tls | None = None
    cds: Path | None = None
    envoy_admins: tuple[str, ...] = ()
    outcomes: Path | None = None
    ledger: str | None = None
    traces: str | None = None
    grace_seconds: float = 20.0


class Running(Struct, frozen=True, kw_only=True):
    """Where a running sidecar listens."""

    listen: Address
    admin: Address
    sidecar: Sidecar
    telemetry: Address | None = None


@contextlib.asynccontextmanager
async def serving(options: ServeOptions, render_clusters: Callable[..., dict[str, Any]]) -> AsyncIterator[Running]:
    """Run a sidecar inside the `async with` block, and drain it at its end.

    Raises RulesError, SecretsError or BindError before anything listens.
    """
    keep_freed_memory()
    require_safe(options.listen, options.tls, "ext_proc")
    require_safe(options.admin, options.tls, "the admin listener")
    source = Source(options.rules, options.secrets)
    raw, files = source.read()
    snapshot = source.build(raw, files)
    clusters = EnvoyClusters(options.cds, options.envoy_admins, render_clusters)
    clusters.publish(snapshot.book.rules)
    async with contextlib.AsyncExitStack() as stack:
        sinks: list[OutcomeSink] = []
        if options.outcomes is not None:
            sinks.append(_json_lines(stack.enter_context(_opened(options.outcomes))))
        metrics = Metrics()
        writer = f"{socket.gethostname()[:64]}-{os.urandom(6).hex()}"
        webhook = Webhook(lambda: sidecar.snapshot.keyring.webhook)
        rollouts = _rollouts(options, metrics, stack, webhook, writer)
        quotas = _quotas(options, metrics, stack, webhook, writer)
        send = _ledger(options, metrics, stack, lambda: sidecar)
        reckoning = Reckoning(lambda: sidecar.snapshot.book, quotas, metrics.usage, send)
        sinks += [reckoning.outcome, (traffic := Traffic()).outcome]
        stores = Stores(metrics.store_gate, options.state.with_name("stores.json"))
        stack.push_async_callback(stores.stop)
        sidecar = Sidecar(
            snapshot,
            metrics,
            sinks,
            rollouts=rollouts,
            stores=stores,
            quotas=quotas,
            responses=reckoning.response,
            traces=_traces(options, stack),
        )
        await rollouts.start()
        await quotas.accounts.start()
        # Ended in the opposite order: outcomes and records come until transport and admin listener are gone, then the
        # stores get what is known, and the webhook what that entered.
        stack.push_async_callback(_cancelled, asyncio.create_task(webhook.run()))
        stack.push_async_callback(webhook.settle, WEBHOOK_SECONDS)
        stack.push_async_callback(rollouts.stop)
        stack.push_async_callback(_cancelled, asyncio.create_task(rollouts.run()))
        stack.push_async_callback(quotas.stop)
        stack.push_async_callback(_cancelled, asyncio.create_task(quotas.run()))
        reloader = Reloader(source, sidecar, clusters, source.digest(raw, files))
        transport = GrpcioTransport(sidecar)
        admin = Admin(sidecar, reloader, quotas, _console(Sources(
            sidecar=sidecar, reloader=reloader, rollouts=rollouts, quotas=quotas, traffic=traffic, stores=stores.status,
            usage=_usage(options, sidecar),
        ), stack))  # fmt: skip
        shown = await _telemetry(options, admin, stack)
        admin_address = await _admin(options, admin, stack)
        # Who may open a unix socket says its folder: Envoy speaks no TLS there.
        listen = await transport.start(options.listen, None if options.listen.path else options.tls)
        stack.push_async_callback(transport.drain, options.grace_seconds)
        stack.push_async_callback(_cancelled, asyncio.create_task(reloader.run()))
        admin.ready = True
        _freeze()
        _tell_ready(snapshot.book.rules, listen, admin_address)
        try:
            yield Running(listen=listen, admin=admin_address, sidecar=sidecar, telemetry=shown)
        finally:
            admin.ready = False
            logs.get().info("draining", open_exchanges=sidecar.open_exchanges, grace_seconds=options.grace_seconds)


def _traces(options: ServeOptions, stack: contextlib.AsyncExitStack) -> Tracer | None:
    """Return what makes spans, if they are wanted; else nothing is imported, and nothing is asked per exchange."""
    if options.traces is None:
        return None
    from tenantry.adapters.traces import Traces  # noqa: PLC0415  # OpenTelemetry: only here

    traces = Traces(options.traces)
    stack.push_async_callback(traces.stop)
    return traces


async def _telemetry(options: ServeOptions, admin: Admin, stack: contextlib.AsyncExitStack) -> Address | None:
    """Start the listener for kubelet and Prometheus, before the others: it ends after them, so that a drain is seen."""
    if options.telemetry is None:
        return None
    return await stack.enter_async_context(telemetry(options.telemetry, admin.unready, admin.exposition))


def _freeze() -> None:
    """Spare the garbage collector what was loaded: it lives as long as the process."""
    gc.collect()
    gc.freeze()


def _tell_ready(rules: Rules, listen: Address, admin: Address) -> None:
    logs.get().info(
        "sidecar ready", address=str(listen), admin=str(admin), transport="grpcio",
        models=len(rules.models), tenants=len(rules.tenants), notes=not_acted_on(rules),
    )  # fmt: skip


def _rollouts(
    options: ServeOptions, metrics: Metrics, stack: contextlib.AsyncExitStack, webhook: Webhook, writer: str
) -> Rollouts:
    local = open_state(str(options.state))
    stack.push_async_callback(local.close)
    fleet = None
    if options.redis is not None:
        fleet = open_state(options.redis)
        stack.push_async_callback(fleet.close)
    return Rollouts(local=local, shared=fleet, metrics=metrics.rollouts, writer=writer, notify=webhook.tell)


def _quotas(
    options: ServeOptions, metrics: Metrics, stack: contextlib.AsyncExitStack, webhook: Webhook, writer: str
) -> Quotas:
    """Return the quotas, over a store of their own: a file without an fsync a request, or connections of theirs."""
    where = options.redis or str(options.state.with_name("quotas.db"))
    store = open_state(where, durable=False)
    stack.push_async_callback(store.close)
    accounts = Accounts(store, owner=writer.replace(" ", "-"), metrics=metrics.quotas)
    return Quotas(accounts, metrics.quotas, notify=webhook.tell)


async def _admin(options: ServeOptions, admin: Admin, stack: contextlib.AsyncExitStack) -> Address:
    """Start the admin listener, for operators on this machine as well; return the first address."""
    stack.push_async_callback(admin.stop)
    address = await admin.start(options.admin, options.tls)
    if options.local_admin is not None:
        await admin.start(options.local_admin, None)
    return address


def _ledger(
    options: ServeOptions, metrics: Metrics, stack: contextlib.AsyncExitStack, sidecar: Callable[[], Sidecar]
) -> Callable[[UsageRecord], None]:
    """Return what takes usage records; without a ledger they go nowhere."""
    if options.ledger is None:
        return lambda _record: None
    outbox = LedgerOutbox(
        options.state.with_name("outbox.db"), options.ledger, lambda: sidecar().snapshot.keyring.usage_token,
        metrics.usage, tls=options.tls,
    )  # fmt: skip
    stack.push_async_callback(outbox.stop)
    stack.push_async_callback(_cancelled, asyncio.create_task(outbox.run()))
    return outbox.add


def _console(shown: Sources, stack: contextlib.AsyncExitStack) -> Console:
    console = Console(shown)
    stack.push_async_callback(console.stop)
    return console


def _usage(options: ServeOptions, sidecar: Sidecar) -> LedgerUsage | None:
    """Return what asks the ledger for the console."""
    if options.ledger is None:
        return None
    return LedgerUsage(options.ledger, lambda: sidecar.snapshot.keyring.admin_token, tls=options.tls)


async def serve(options: ServeOptions, render_clusters: Callable[..., dict[str, Any]]) -> None:
    """Run a sidecar until SIGTERM or SIGINT."""
    async with serving(options, render_clusters):
        await stop_signal()


async def stop_signal() -> None:
    """Return at SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a", buffering=1, encoding="utf-8")
    except OSError as error:
        raise TenantryError(f"outcomes file {path}: {error.strerror or error}") from None


def _json_lines(file: TextIO) -> OutcomeSink:
    def write(outcome: Outcome) -> None:
        file.write(msgspec.json.encode(outcome).decode() + "\n")

    return write


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
