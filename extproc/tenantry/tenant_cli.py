"""`tenantry tenant purge`: a tenant that leaves."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from tenantry.core.errors import TenantryError
from tenantry.core.identity import is_tenant_name
from tenantry.rollout_cli import SECRETS

out = Console(highlight=False, emoji=False, soft_wrap=True)

app = App(name="tenant", help="Tenants that leave.")


@app.command
def purge(
    name: str,
    /,
    *,
    rules: Path,
    admin: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    secrets: Path = SECRETS,
    wait_seconds: float = 60.0,
    yes: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Close a tenant and drop what is kept of it; its bills stay. Without --yes only say what would be done.

    Each step says what became of it; run it again until nothing is left (exit 0).

    Parameters
    ----------
    name
        The tenant. It may be one that only a token or certificate names.
    rules
        The rules document to edit, a file or a folder (comments stay).
    admin
        The admin listener (HOST:PORT) of each sidecar: vectors are dropped only when all of them refuse the tenant.
    secrets
        The folder that holds the admin token and the stores' credentials.
    wait_seconds
        How long to wait until the sidecars have the document.
    yes
        Do it.
    """
    if not is_tenant_name(name):
        raise TenantryError(f"{name!r} is no tenant's name: 1 to 63 of A-Z a-z 0-9 . _ -")
    from tenantry.off_board import Purge  # noqa: PLC0415  # grpcio and aiohttp: only here

    off = Purge(name, rules, admin, secrets)
    steps = asyncio.run(off.run(wait_seconds) if yes else off.plan())
    for step in steps:
        out.print(f"  {step.result:<13} {step.what}" + (f": {step.note}" if step.note else ""), markup=False)
    if not yes:
        out.print("Nothing was changed. --yes does it.")
    if any(step.result in ("failed", "not begun") for step in steps):
        out.print("Not all is done: mend it and run the same command again.")
        sys.exit(1)
