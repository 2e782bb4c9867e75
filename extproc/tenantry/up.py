"""`tenantry up`: Envoy, the sidecar and the ledger together on this machine, for any rules file."""

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console
from tenantry_envoy.binary import find_envoy
from tenantry_envoy.bootstrap import bootstrap
from tenantry_envoy.clusters import clusters as render_clusters
from tenantry_envoy.options import EnvoyOptions, ListenerTls

from tenantry.adapters import envoy_process
from tenantry.adapters.bind import Address, require_safe
from tenantry.adapters.ledger.service import LedgerOptions, LedgerRunning, ledger_serving
from tenantry.adapters.ports import free_port
from tenantry.adapters.process import Running, ServeOptions, serving, stop_signal
from tenantry.adapters.rules_file import folder_of, load
from tenantry.adapters.secrets_folder import write_missing
from tenantry.core.errors import Problem, RulesError, TenantryError
from tenantry.core.rules import Rules

__all__ = ["Up", "UpOptions", "listener_tls", "render_bootstrap", "render_clusters", "run", "running"]


class UpOptions(Struct, frozen=True, kw_only=True):
    """The arguments of `tenantry up`; `ledger` None runs none."""

    rules: Path
    listen: Address = Address(host="127.0.0.1", port=10000)
    admin: Address = Address(host="127.0.0.1", port=9300)
    envoy_admin: Address = Address(host="127.0.0.1", port=9901)
    ledger: Address | None = None
    envoy: str | None = None
    state: Path = Path(".tenantry")
    secrets: Path | None = None
    redis: str | None = None
    outcomes: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    concurrency: int = 1


class Up(Struct, frozen=True, kw_only=True):
    """What runs: where clients connect, both admin addresses, the processes behind them, the ledger if there is one."""

    base_url: str
    sidecar: Running
    envoy: envoy_process.EnvoyProcess
    ledger: LedgerRunning | None = None


@contextlib.asynccontextmanager
async def running(options: UpOptions) -> AsyncIterator[Up]:
    """Run the sidecar, Envoy and the ledger inside the `async with` block."""
    require_safe(options.envoy_admin, None, "Envoy's admin listener")
    binary = find_envoy(options.envoy)
    rules = _on_this_disk(load(options.rules), options)
    state = options.state.resolve()
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    secrets = options.secrets or state / "secrets"
    if options.secrets is None:
        write_missing(secrets)
    # A folder of its own with a short name: a socket's path holds 107 bytes at most.
    sockets = Path(tempfile.mkdtemp(prefix="tenantry-"))
    cds = state / "clusters" / "cds.json"
    cds.parent.mkdir(exist_ok=True)
    # The admin address is known only once Envoy has bound it, and the sidecar comes first: port 0
    # is settled here.
    envoy_admin = _settled(options.envoy_admin)
    try:
        serve = ServeOptions(
            rules=options.rules,
            secrets=secrets,
            listen=Address(path=str(sockets / "sidecar.sock")),
            admin=options.admin,
            state=state / "state.db",
            redis=options.redis,
            cds=cds,
            envoy_admins=(f"http://{envoy_admin}",),
            outcomes=options.outcomes,
            grace_seconds=5.0,
        )
        async with contextlib.AsyncExitStack() as exits:
            ledger = await exits.enter_async_context(_ledger(options, state, secrets))
            if ledger is not None:
                serve = replace(serve, ledger=f"http://{ledger.listen}")
            sidecar = await exits.enter_async_context(serving(serve, render_clusters))
            config = bootstrap(rules, _envoy_options(options, sidecar.listen, envoy_admin, cds))
            async with envoy_process.running(binary, config, state, options.concurrency) as envoy:
                scheme = "https" if options.tls_cert else "http"
                base_url = f"{scheme}://{await envoy.listener()}"
                yield Up(base_url=base_url, sidecar=sidecar, envoy=envoy, ledger=ledger)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


@contextlib.asynccontextmanager
async def _ledger(options: UpOptions, state: Path, secrets: Path) -> AsyncIterator[LedgerRunning | None]:
    """Run a ledger in a file beside the sidecar's state."""
    if options.ledger is None:
        yield None
        return
    ledger = LedgerOptions(
        rules=options.rules, secrets=secrets, db=f"sqlite:{state / 'ledger.db'}", listen=options.ledger
    )
    async with ledger_serving(ledger) as running_ledger:
        yield running_ledger


async def run(options: UpOptions, out: Console) -> None:
    """Run until SIGTERM or SIGINT; raise EnvoyError when Envoy ends by itself."""
    stopped = asyncio.create_task(stop_signal())
    try:
        async with running(options) as up:
            _tell(options, up, out)
            ended = asyncio.create_task(up.envoy.ended())
            await asyncio.wait((stopped, ended), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise ended.result()
            ended.cancel()
    finally:
        stopped.cancel()


def listener_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> ListenerTls | None:
    """Return TLS for clients; raise TenantryError for a certificate without its key, or a CA alone."""
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise TenantryError("TLS needs both --tls-cert and --tls-key")
    return ListenerTls(
        cert_file=str(cert), key_file=str(key), client_ca_file=str(client_ca) if client_ca is not None else None
    )


def render_bootstrap(
    rules: Rules, *, listen: Address, admin: Address, sidecar: Address, cds: Path, stats: Address | None = None,
    tls: ListenerTls | None = None, max_heap_bytes: int | None = None,
) -> str:  # fmt: skip
    """Return the bootstrap for a sidecar that runs elsewhere, as JSON text."""
    options = EnvoyOptions(
        listen_host=listen.host,
        listen_port=listen.port,
        admin_host=admin.host,
        admin_port=admin.port,
        sidecars=(sidecar.path or str(sidecar),),
        cds_path=str(cds),
        listener_tls=tls,
        max_heap_bytes=max_heap_bytes,
    )
    if stats is not None:
        options = replace(options, stats_host=stats.host, stats_port=stats.port)
    return json.dumps(bootstrap(rules, options), indent=1) + "\n"


def _on_this_disk(rules: Rules, options: UpOptions) -> Rules:
    """Return the rules with files made absolute (from the document's folder); raise RulesError for what `up` lacks."""
    identity, problems = rules.identity, []
    if identity.mtls is not None and options.client_ca is None:
        hint = "give --tls-cert, --tls-key and --client-ca, or remove it"
        problems.append(Problem(path="identity.mtls", message="no client certificate can be verified", hint=hint))
    if identity.jwt is not None:
        jwks = folder_of(options.rules).resolve() / identity.jwt.jwks_file
        if not jwks.is_file():
            problems.append(Problem(path="identity.jwt.jwksFile", message=f"no file at {jwks}"))
        identity = replace(identity, jwt=replace(identity.jwt, jwks_file=str(jwks)))
    if problems:
        raise RulesError(problems)
    return replace(rules, identity=identity)


def _envoy_options(options: UpOptions, sidecar: Address, admin: Address, cds: Path) -> EnvoyOptions:
    cert, key, client_ca = (
        path.resolve() if path is not None else None for path in (options.tls_cert, options.tls_key, options.client_ca)
    )
    return EnvoyOptions(
        listen_host=options.listen.host,
        listen_port=options.listen.port,
        admin_host=admin.host,
        admin_port=admin.port,
        sidecars=(sidecar.path or str(sidecar),),
        cds_path=str(cds),
        listener_tls=listener_tls(cert, key, client_ca),
    )


def _settled(address: Address) -> Address:
    if address.port != 0:
        return address
    return Address(host=address.host, port=free_port(address.host))


def _tell(options: UpOptions, up: Up, out: Console) -> None:
    rules = up.sidecar.sidecar.snapshot.book.rules
    model = next(iter(rules.models), "MODEL")
    out.print(f"tenantry is up for {options.rules} (saving it reloads it). Ctrl-C stops everything.\n")
    out.print(f"  clients       {up.base_url}/v1")
    out.print(f"  models        {', '.join(rules.models) or 'none yet'}")
    out.print(f"  tenants       {', '.join(list(rules.tenants)[:8]) or 'those that a token or certificate names'}")
    if rules.stores:
        stores = ", ".join(f"{name} ({store.kind}, {store.isolation})" for name, store in rules.stores.items())
        out.print(f"  stores        {stores}; each opens once it is proven to keep tenants apart")
    out.print(f"  sidecar       http://{up.sidecar.admin}/metrics  (also /readyz, /rules)")
    if up.ledger is not None:
        out.print(f"  ledger        {up.ledger.listen}  (tenantry usage, tenantry invoice; engines post to /records)")
    out.print(f"  Envoy         {up.envoy.admin}, log {up.envoy.log}\n")
    out.print("Try it (a key: tenantry key new --tenant NAME --rules FILE):\n")
    insecure = " --insecure" if options.tls_cert else ""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": True})
    out.print(f"  curl -N{insecure} {up.base_url}/v1/chat/completions -H 'Authorization: Bearer '$KEY \\")
    out.print(f"       -H 'content-type: application/json' -d '{body}'", markup=False)
