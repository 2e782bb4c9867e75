"""`tenantry stores`: prove that they keep tenants apart, make what tenants need in them, say where a tenant's rows are.

Each command asks the store itself, with the credential of the secrets folder; no sidecar need run.
"""

import asyncio
import sys
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape

from tenantry.adapters.rules_file import load
from tenantry.core.errors import Problem, RulesError, TenantryError
from tenantry.core.rules import Rules
from tenantry.core.rules_stores import Store
from tenantry.core.schema import nearest
from tenantry.core.vector import scope
from tenantry.core.vector.calls import Need

if TYPE_CHECKING:
    from tenantry.adapters.milvus_admin import MilvusAdmin
    from tenantry.core.vector.provision import SharedCollection

out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)

app = App(name="stores", help="Vector stores: proven to keep tenants apart, made ready for tenants, explained.")

SECRETS = Path(".tenantry/secrets")
DEFAULT_KEY_CHARACTERS = 128

RulesFile = Annotated[Path, Parameter(help="The rules document.")]
StoreArgument = Annotated[str, Parameter(name="--store", help="A store of the rules.")]
Secrets = Annotated[Path, Parameter(help="The folder of secret files; `store.NAME` is the store's credential.")]


@app.command
def prove(rules: RulesFile, /, *, store: str | None = None, secrets: Secrets = SECRETS) -> None:
    """Prove each Milvus store of the rules with two canary tenants on scratch collections; exit 1 if one is unsafe.

    Parameters
    ----------
    store
        One store; without it, all.
    """
    document = load(rules)
    chosen = {store: _store(document, store)} if store else document.stores
    safe = True
    for name, each in chosen.items():
        if each.kind == "pinecone":
            out.print(f"{name}: open. A namespace is Pinecone's own unit of isolation; there is no index to try it on.")
            continue
        safe = asyncio.run(_prove(name, each, secrets)) and safe
    if not safe:
        sys.exit(1)


@app.command
def provision(
    rules: RulesFile,
    /,
    *,
    store: StoreArgument,
    tenant: tuple[str, ...] = (),
    create: str | None = None,
    dim: int | None = None,
    primary: Literal["int64", "varchar"] | None = None,
    max_length: int = DEFAULT_KEY_CHARACTERS,
    metric: Literal["COSINE", "L2", "IP"] = "COSINE",
    secrets: Secrets = SECRETS,
) -> None:
    """Make tenants' databases or partitions before their first request, and with --create a collection that they share.

    Parameters
    ----------
    tenant
        Whose; without it, all that the rules name. Tenants that only a token names come with their first request.
    create
        A shared collection of the rules to make: primary key, tenant field, a float vector, dynamic fields, an index.
    dim
        The dimension of its vector.
    primary
        The type of its primary key. Default: varchar under keyprefix, else int64.
    max_length
        The length of a varchar primary key, the prefix of `keyprefix` included.
    metric
        The metric of its index.
    """
    document = load(rules)
    each = _store(document, store)
    if each.kind != "milvus":
        raise TenantryError(f"stores.{store}: namespaces of {each.kind} come with the first row; nothing is to be made")
    for name in tenant:
        if name not in document.tenants and document.default_tier is None:
            raise RulesError([_unknown("tenants", "tenant", name, document.tenants)])
    made: list[SharedCollection] = []
    if create is not None:
        text = primary == "varchar" or (primary is None and each.isolation == "keyprefix")
        made = _shared(store, each, create, dim, max_length if text else None, metric)
    asyncio.run(_provision(store, each, tenant or tuple(document.tenants), secrets, made))


@app.command
def explain(rules: RulesFile, /, *, store: StoreArgument, tenant: str) -> None:
    """Print under which names a tenant's rows are in a store.

    Parameters
    ----------
    tenant
        A tenant's name; it need not stand in the rules.
    """
    each = _store(load(rules), store)
    out.print(f"{tenant} in {store} ({each.kind}, isolation by {each.isolation})")
    for what, value in _explained(each, tenant):
        out.print(f"  {what:<13}{value}", markup=False)


def _explained(store: Store, tenant: str) -> Iterator[tuple[str, str]]:
    yield "token", scope.token_of(tenant)
    if store.isolation == "namespace":
        yield "namespace", f"{scope.namespace_of(tenant)}, and {scope.namespace_of(tenant, 'NAME')} for one named NAME"
    if store.isolation == "database":
        yield "database", scope.database_of(tenant)
    if store.isolation == "collection":
        yield "collection", f"{scope.collection_of(tenant, 'NAME')} for one named NAME"
    if store.isolation == "partition":
        yield "partition", scope.partition_of(tenant)
    if store.isolation == "keyprefix":
        yield "key prefix", scope.key_prefix_of(tenant)
    for name, shared in store.collections.items():
        yield "collection", f"{scope.spread_of(tenant, name, shared.spread)} for {name}"
        yield "filter", f'{shared.tenant_field} == "{tenant}"'
    if not store.collections and store.kind == "milvus":
        yield "filter", f'{store.tenant_field} == "{tenant}"'


async def _prove(name: str, store: Store, secrets: Path) -> bool:
    from tenantry.adapters import store_proofs  # noqa: PLC0415

    async with aclosing(_admin(name, store, secrets)) as admin:
        found = await store_proofs.find(admin, name, store)
        verdicts = await store_proofs.prove(admin, name, store, found)
    out.print(f"{name}: {store.isolation} on {escape(found.engine)}")
    for verdict in verdicts:
        word = "[green]safe[/]" if verdict.safe else "[red]unsafe[/]"
        out.print(f"  {word}  {escape(verdict.about)}{': ' + escape(verdict.reason) if verdict.reason else ''}")
    return all(verdict.safe for verdict in verdicts)


async def _provision(
    name: str, store: Store, tenants: tuple[str, ...], secrets: Path, create: "list[SharedCollection]"
) -> None:
    from tenantry.core.vector import provision as steps  # noqa: PLC0415
    from tenantry.core.vector.operator import describe  # noqa: PLC0415

    async with aclosing(_admin(name, store, secrets)) as admin:
        for wanted in create:
            if await admin.perform(describe(wanted.name)) is not None:
                out.print(f"{wanted.name}: is there already")
                continue
            await admin.perform(steps.make_shared(wanted))
            out.print(f"{wanted.name}: made, indexed and loaded")
        made = 0
        needs = {need: None for tenant in tenants for need in _needs(store, tenant)}
        for need in needs:
            made += bool(await admin.perform(steps.provide(need)))
        out.print(f"{name}: {made} made, {len(needs) - made} were there, for {len(tenants)} tenants")
        for line in await _limits(admin, store):
            out.print(f"  {line}")


def _needs(store: Store, tenant: str) -> Iterator[Need]:
    if store.isolation == "database":
        yield Need(database=scope.database_of(tenant))
    if store.isolation == "partition":
        for name, shared in store.collections.items():
            physical = scope.spread_of(tenant, name, shared.spread)
            yield Need(collection=physical, partition=scope.partition_of(tenant))


async def _limits(admin: "MilvusAdmin", store: Store) -> list[str]:
    from tenantry.core.vector import provision as steps  # noqa: PLC0415
    from tenantry.core.vector.operator import databases  # noqa: PLC0415

    if store.isolation == "database":
        count = len(await admin.perform(databases()))
        return [f"{count} databases of {steps.MAX_DATABASES} that Milvus allows by default"]
    if store.isolation != "partition":
        return []
    return [
        f"{physical}: {len(await admin.perform(steps.partitions(physical)))} partitions of {steps.MAX_PARTITIONS}"
        for name, shared in store.collections.items()
        for physical in scope.spread_names(name, shared.spread)
    ]


def _shared(  # noqa: PLR0917  # the command's own arguments
    store_name: str, store: Store, create: str, dim: int | None, max_length: int | None, metric: str
) -> "list[SharedCollection]":
    from tenantry.core.vector.provision import PRIMARY_FIELD, SharedCollection  # noqa: PLC0415

    shared = store.collections.get(create)
    if shared is None:
        raise RulesError([_unknown(f"stores.{store_name}.collections", "shared collection", create, store.collections)])
    if dim is None:
        raise TenantryError("--create needs --dim: the dimension of the vectors")
    if store.isolation == "keyprefix" and max_length is None:
        raise TenantryError("keyprefix needs a VARCHAR primary key: --primary varchar")
    return [
        SharedCollection(
            name=physical,
            dim=dim,
            tenant_field=shared.tenant_field,
            primary_field=shared.primary_field or PRIMARY_FIELD,
            max_length=max_length,
            metric=metric,
        )
        for physical in scope.spread_names(create, shared.spread)
    ]


def _admin(name: str, store: Store, secrets: Path) -> "MilvusAdmin":
    from tenantry.adapters.milvus_admin import MilvusAdmin  # noqa: PLC0415  # grpcio

    return MilvusAdmin(store, _secret(name, secrets))


def _secret(name: str, folder: Path) -> str | None:
    from tenantry.core.keyring import STORE  # noqa: PLC0415

    path = folder / f"{STORE}.{name}"
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise TenantryError(f"{path}: {type(error).__name__}") from None


def _store(rules: Rules, name: str) -> Store:
    if name not in rules.stores:
        raise RulesError([_unknown("stores", "store", name, rules.stores)])
    return rules.stores[name]


def _unknown(path: str, what: str, name: str, known: Iterable[str]) -> Problem:
    return Problem(path=f"{path}.{name}", message=f"no such {what}", hint=nearest(name, known))
