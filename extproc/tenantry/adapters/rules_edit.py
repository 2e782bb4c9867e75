"""Edits a rules file in place: comments and order stay, the result is validated before it is written.

The write is a rename in the same folder, so a watching sidecar sees the old document or the new
one, never half of either.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tenantry.adapters.rules_file import read_file, read_rules
from tenantry.core.apikeys import Entry
from tenantry.core.errors import Problem, RulesError
from tenantry.core.schema import nearest

Edit = Callable[[list[Entry]], list[Entry]]


def edit_keys(path: Path, tenant: str, edit: Edit) -> None:
    """Replace a tenant's key entries by `edit(entries)`; raise RulesError and write nothing on any problem."""
    round_trip = YAML()
    round_trip.preserve_quotes = True
    round_trip.width = 4096
    before = read_file(path)
    read_rules(before)
    document: Any = round_trip.load(before)
    tenants = document.get("tenants") or {}
    if tenant not in tenants:
        raise RulesError(
            [Problem(path="tenants", message=f'no tenant is called "{tenant}"', hint=nearest(tenant, tenants))]
        )
    tenants[tenant]["keys"] = edit([_plain(entry) for entry in tenants[tenant].get("keys") or []])
    text = io.BytesIO()
    round_trip.dump(document, text)
    read_rules(text.getvalue())
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(text.getvalue())
    temporary.chmod(path.stat().st_mode & 0o777)
    temporary.replace(path)


def _plain(entry: Any) -> Entry:
    return str(entry) if isinstance(entry, str) else dict(entry)
