"""Edits a rules file; of a tenant's keys, so that every other byte of it stays as it is.

The text is spliced where the YAML parser says that an entry stands, never loaded and dumped: a
round trip through a YAML library moved the indentation of the whole document and lost the comments
among the keys. What the splices make is read again before it is written, and must differ from the
old document by the intended keys and by nothing else.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tenantry.adapters.rules_file import DATA, read_document, read_file, read_parts, read_rules, rules_of
from tenantry.core.apikeys import Entry
from tenantry.core.errors import Problem, RulesError
from tenantry.core.rules import TenantRules
from tenantry.core.schema import join, nearest

Edit = Callable[[list[Entry]], list[Entry]]

_COMPOSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Splice(NamedTuple):
    """Characters `start` to `end` of the text give way to `text`."""

    start: int
    end: int
    text: str


def rewrite(source: Path, target: Path, change: Callable[[bytes], bytes]) -> None:
    """Write `change(document)` of the rules in `source` to `target`, which may be the same file.

    A new document that is not valid raises RulesError, and nothing is written.
    """
    after = change(read_file(source))
    read_rules(after)
    _replace(target, after, target if target.exists() else source)


def edit_keys(path: Path, tenant: str, edit: Edit) -> None:
    """Replace a tenant's key entries by `edit(entries)`; raise RulesError and write nothing on any problem.

    An edit can put new entries in front, give entries another `notAfter`, and take entries away. In a folder the part
    in which the tenant stands is edited.
    """
    edit_part(path, tenant, lambda raw: _with_keys(raw, tenant, edit))


def edit_part(path: Path, tenant: str, change: Callable[[bytes], bytes]) -> None:
    """Write `change(part)` of the part in which a tenant stands, if the whole document is valid with it."""
    parts = read_parts(path)
    known = rules_of(parts).tenants
    if tenant not in known:
        raise RulesError(
            [Problem(path="tenants", message=f'no tenant is called "{tenant}"', hint=nearest(tenant, known))]
        )
    name, before = next((name, raw) for name, raw in parts if tenant in _tenants(raw))
    after = change(before)
    rules_of(tuple((each, after if each == name else raw) for each, raw in parts))
    target = path / name if name else path
    _replace(target, after, target)


def close_tenant(path: Path, tenant: str) -> bool:
    """Make a tenant's entry say that it is closed, or add one that does; return whether anything was to be changed.

    Its keys and all else go; its tier and quota stay, since the running period's invoice goes by them.
    """
    parts = read_parts(path)
    entry = rules_of(parts).tenants.get(tenant)
    if is_only_closed(entry):
        return False
    if entry is not None:
        edit_part(path, tenant, lambda raw: _with_entry(raw, tenant))
        return True
    named = [each for each in parts if "tenants" in _plain_mapping(each[1])]
    name, before = (named or parts)[-1]
    after = _with_entry(before, tenant)
    rules_of(tuple((each, after if each == name else raw) for each, raw in parts))
    target = path / name if name else path
    _replace(target, after, target)
    return True


def is_only_closed(entry: TenantRules | None) -> bool:
    """Return whether an entry closes its tenant and says no more than invoices need."""
    return entry is not None and entry == TenantRules(tier=entry.tier, quota=entry.quota, closed=True)


def _with_entry(raw: bytes, tenant: str) -> bytes:
    """Return a part in which the tenant's entry is that of a closed one, and all else is as it was."""
    before = _plain_mapping(raw)
    tenants = before.get("tenants") or {}
    kept = {key: value for key, value in tenants.get(tenant, {}).items() if key in ("tier", "quota")}
    closed = {"closed": True, **kept}
    text = raw.decode("utf-8", "strict")
    splice = _closing(text, tenant, json.dumps(closed))
    after = (text[: splice.start] + splice.text + text[splice.end :]).encode()
    if _plain(after) != {**before, "tenants": {**tenants, tenant: closed}}:
        hint = f"edit it by hand: tenants.{tenant}: {json.dumps(closed)}"
        raise RulesError([Problem(path=join("tenants", tenant), message="cannot be edited without more", hint=hint)])
    return after


def _closing(text: str, tenant: str, entry: str) -> Splice:
    root = yaml.compose(text, _COMPOSER)
    tenants = _value(root, "tenants")
    node = None if tenants is None else _value(tenants, tenant)
    if node is not None:
        return Splice(node.start_mark.index, _end(node), entry)
    member = f"{json.dumps(tenant)}: {entry}"
    if tenants is None:
        newline = "" if text.endswith("\n") else "\n"
        return Splice(len(text), len(text), f"{newline}tenants:\n  {member}\n")
    if tenants.flow_style:
        start = tenants.start_mark.index + 1
        return Splice(start, start, member + (", " if tenants.value else ""))
    first = tenants.value[0][0].start_mark
    return Splice(first.index, first.index, f"{member}\n{' ' * first.column}")


def _plain_mapping(raw: bytes) -> dict[str, Any]:
    document: dict[str, Any] = read_document(raw)  # type: ignore[assignment]  # of a valid document
    return document


def _tenants(raw: bytes) -> dict[str, Any]:
    return _plain_mapping(raw).get("tenants") or {}


def _replace(target: Path, content: bytes, like: Path) -> None:
    """Write a file whole, with the mode of `like`.

    The write is a rename in the target's folder, so a watching sidecar sees the old document or the new one, never half
    of either.
    """
    if target.parent.joinpath(DATA).is_symlink():
        hint = "edit the ConfigMap or Secret that it is mounted from"
        raise RulesError([Problem(path="", message=f"{target} is a mounted volume's", hint=hint)])
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.chmod(like.stat().st_mode & 0o777)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RulesError([Problem(path="", message=f"{target}: {error.strerror or error}")]) from None


def _with_keys(raw: bytes, tenant: str, edit: Edit) -> bytes:
    before: Any = read_document(raw)
    entry = before["tenants"][tenant]
    entries = list(entry.get("keys", ()))
    edited = edit([each if isinstance(each, str) else dict(each) for each in entries])
    after = _edited(raw, tenant, entries, edited)
    intended = {**before, "tenants": {**before["tenants"], tenant: {**entry, "keys": edited}}}
    if _plain(after) != intended:
        where = join(join("tenants", tenant), "keys")
        raise RulesError(
            [Problem(path=where, message="cannot be edited without changing more", hint="edit it by hand")]
        )
    return after


def _edited(raw: bytes, tenant: str, old: list[Entry], new: list[Entry]) -> bytes:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise RulesError([Problem(path="", message="the file is not UTF-8", hint="convert it")]) from None
    for splice in sorted(_splices(text, tenant, old, new), reverse=True):
        text = text[: splice.start] + splice.text + text[splice.end :]
    return text.encode()


def _plain(document: bytes) -> object:
    try:
        return read_document(document)
    except RulesError:
        return None


def _splices(text: str, tenant: str, old: list[Entry], new: list[Entry]) -> Iterator[Splice]:
    root = yaml.compose(text, _COMPOSER)
    mapping = _value(_value(root, "tenants"), tenant)
    fresh = [entry for entry in new if _digest(entry) not in {_digest(each) for each in old}]
    sequence = _value(mapping, "keys")
    if sequence is None:
        yield _new_member(mapping, fresh)
        return
    newline = "\r\n" if "\r\n" in text else "\n"
    kept = {_digest(entry): entry for entry in new}
    flow = bool(sequence.flow_style)
    if fresh and flow:
        start = sequence.start_mark.index + 1
        yield Splice(start, start, ", ".join(map(_written, fresh)) + (", " if old else ""))
    elif fresh:
        first = sequence.value[0]
        dash = text.rindex("-", 0, first.start_mark.index)
        indent = " " * (dash - text.rfind("\n", 0, dash) - 1)
        # Right behind the line of `keys:`, above whatever comments introduce the first entry.
        start = text.index("\n", _key(mapping, "keys").end_mark.index) + 1
        yield Splice(start, start, "".join(f"{indent}- {_written(entry)}{newline}" for entry in fresh))
    for index, (node, entry) in enumerate(zip(sequence.value, old, strict=True)):
        if _digest(entry) not in kept:
            yield _removed_from_flow(sequence, index) if flow else _removed_lines(text, node)
        elif kept[_digest(entry)] != entry:
            yield _ending(text, node, kept[_digest(entry)], newline)
    if not new and not flow:
        colon = text.index(":", _key(mapping, "keys").end_mark.index)
        yield Splice(colon + 1, colon + 1, " []")


def _new_member(mapping: Any, entries: list[Entry]) -> Splice:
    member = f"keys: [{', '.join(map(_written, entries))}]"
    if mapping.flow_style:
        start = mapping.start_mark.index + 1
        return Splice(start, start, member + (", " if mapping.value else ""))
    first = mapping.value[0][0].start_mark
    return Splice(first.index, first.index, f"{member}\n{' ' * first.column}")


def _ending(text: str, node: Any, entry: Entry, newline: str) -> Splice:
    """Write the `notAfter` of an entry that had none, or another one."""
    if isinstance(entry, str) or not isinstance(node, yaml.MappingNode):
        digest = text[node.start_mark.index : node.end_mark.index]
        return Splice(node.start_mark.index, node.end_mark.index, _written(entry, digest))
    moment = json.dumps(entry.get("notAfter"))
    value = _value(node, "notAfter")
    if value is not None:
        return Splice(value.start_mark.index, value.end_mark.index, moment)
    first = node.value[0][0].start_mark
    separator = ", " if node.flow_style else newline + " " * first.column
    return Splice(first.index, first.index, f"notAfter: {moment}{separator}")


def _removed_lines(text: str, node: Any) -> Splice:
    """Take an entry's own lines away, with what stands behind it on the last one."""
    start = text.rfind("\n", 0, text.rindex("-", 0, node.start_mark.index)) + 1
    line_end = text.find("\n", _end(node))
    return Splice(start, len(text) if line_end < 0 else line_end + 1, "")


def _removed_from_flow(sequence: Any, index: int) -> Splice:
    nodes = sequence.value
    if index + 1 < len(nodes):
        return Splice(nodes[index].start_mark.index, nodes[index + 1].start_mark.index, "")
    start = nodes[index - 1].end_mark.index if index else nodes[index].start_mark.index
    return Splice(start, nodes[index].end_mark.index, "")


def _written(entry: Entry, digest: str | None = None) -> str:
    """Return an entry on one line (a JSON string is a YAML one too); `digest` is how the file spells its digest."""
    if isinstance(entry, str):
        return json.dumps(entry)
    members = {name: json.dumps(value) for name, value in entry.items()}
    if digest is not None:
        members["digest"] = digest
    return "{" + ", ".join(f"{name}: {value}" for name, value in members.items()) + "}"


def _digest(entry: Entry) -> str:
    return entry if isinstance(entry, str) else str(entry["digest"])


def _end(node: Any) -> int:
    """Return where a node's text ends; the end mark of a block mapping is where the next thing begins."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return _end(node.value[-1][1])
    return int(node.end_mark.index)


def _key(mapping: Any, name: str) -> Any:
    return next((key for key, _ in mapping.value if key.value == name), None)


def _value(mapping: Any, name: str) -> Any:
    return next((value for key, value in mapping.value if key.value == name), None)
