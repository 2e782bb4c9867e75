"""Writes a rules document as a folder of parts, each small enough for a ConfigMap."""

import tempfile
from pathlib import Path

import yaml

from tenantry.adapters.rules_file import load, read_document, read_parts
from tenantry.core.errors import TenantryError
from tenantry.core.rules_parts import Part, merge, split

REST = "rules.yaml"


def write_split(source: Path, folder: Path, max_bytes: int) -> dict[str, int]:
    """Write the parts of the rules in `source` to a new `folder`; return their sizes in bytes by name.

    Comments are not kept. The folder appears whole or not at all, and only when what it holds reads as the same rules.
    Raises RulesError for rules that are not valid, TenantryError for what cannot be split or written.
    """
    rules = load(source)
    if folder.exists():
        raise TenantryError(f"{folder} is there already; name a folder that is not")
    document = merge([Part(name=name, document=read_document(raw)) for name, raw in read_parts(source)]).document
    rest, texts = split(dict(document), max_bytes)  # type: ignore[call-overload]  # valid rules are a mapping
    whole = yaml.safe_dump(rest, sort_keys=False, allow_unicode=True, width=120)
    if len(whole.encode()) > max_bytes:
        raise TenantryError(
            f"all but the tenants takes {len(whole.encode())} bytes, and a part has {max_bytes} at most"
        )
    parts = {REST: whole} | {f"tenants-{number:03}.yaml": text for number, text in enumerate(texts, 1)}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            fresh = Path(scratch) / "parts"
            fresh.mkdir()
            for name, text in parts.items():
                (fresh / name).write_text(text, encoding="utf-8")
            if load(fresh) == rules:
                fresh.rename(folder)
                return {name: len(text.encode()) for name, text in parts.items()}
    except OSError as error:
        raise TenantryError(f"{folder}: {error.strerror or error}") from None
    raise TenantryError(f"{source}: its parts do not read as the same rules; nothing was written")
