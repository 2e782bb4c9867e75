"""Rules and secrets from disk.

Reads YAML (JSON is YAML) strictly: a key that stands twice is an error with its line, where YAML
libraries silently keep the last. Depth and aliases are bounded before anything is built of them:
libyaml composes by C recursion, and 100,000 brackets would end the process with a segmentation
fault. Merge keys (`<<`) are refused: nested, they multiply (nine lines held 10^9 pairs), and which
value counts is hard to see.

Rules are a file, or a folder of files that are one document (`core.rules_parts`).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from msgspec.structs import replace

from tenantry.core.errors import Problem, RulesError, SecretsError
from tenantry.core.keyring import Keyring, keyring
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules, parse
from tenantry.core.rules_parts import MAX_PARTS, Part, located, merge
from tenantry.core.session import Snapshot

MAX_RULES_BYTES = 64 * 1024 * 1024
MAX_SECRET_BYTES = 64 * 1024
MAX_ALIASES = 1000
MAX_DEPTH = 32
"""The schema is six levels deep."""

SUFFIXES = (".yaml", ".yml", ".json")
DATA = "..data"
"""The symlink that a kubelet swaps when a mounted volume changes; the files are links through it."""

MAX_LOOKS = 10
"""How often a folder is read again whose volume was swapped meanwhile."""

Parts = tuple[tuple[str, bytes], ...]
"""The files of a document by name, sorted; a file that is the whole document has the name ""."""


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """SafeLoader (libyaml where it is built in) that refuses duplicate keys and merge keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002  # PyYAML's signature
        seen: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name, line = str(key.value), key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"line {line}: merge keys (<<) are not supported; write the keys out")
            if name in seen:
                raise yaml.YAMLError(f'line {line}: key "{name}" stands at line {seen[name]} already')
            seen[name] = line
        return super().construct_mapping(node, deep=deep)


def read_document(raw: bytes) -> object:
    """Parse YAML bytes to plain data; raise RulesError that names the line."""
    if len(raw) > MAX_RULES_BYTES:
        raise RulesError([Problem(path="", message=f"the document is larger than {MAX_RULES_BYTES} bytes")])
    try:
        _check_shape(raw)
        return yaml.load(raw, _StrictLoader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        raise RulesError([Problem(path="", message=f"not valid YAML: {error}")]) from None
    except Exception as error:  # noqa: BLE001  # an explicit tag on a value it does not fit: KeyError, TypeError, ...
        message = f"not valid YAML: a value does not fit its tag ({type(error).__name__}: {error})"
        raise RulesError([Problem(path="", message=message)]) from None


def _check_shape(raw: bytes) -> None:
    depth = aliases = 0
    for event in yaml.parse(raw, _StrictLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise yaml.YAMLError(f"{_line(event)}: nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if aliases > MAX_ALIASES:
                raise yaml.YAMLError(f"{_line(event)}: more than {MAX_ALIASES} aliases")


def _line(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "the document"


def read_rules(raw: bytes) -> Rules:
    """Parse and validate a rules document; raise RulesError with every problem."""
    return rules_of((("", raw),))


def load(path: Path) -> Rules:
    """Read, merge and validate the rules of a file or folder; raise RulesError with every problem and its file."""
    return rules_of(read_parts(path))


def rules_of(parts: Parts) -> Rules:
    """Merge and validate parts; raise RulesError with every problem and its file."""
    merged = merge(list(_documents(parts)))
    try:
        return parse(merged.document)
    except RulesError as error:
        raise RulesError(located(error.problems, merged.origins)) from None


def _documents(parts: Parts) -> Iterator[Part]:
    problems: list[Problem] = []
    for name, raw in parts:
        try:
            yield Part(name=name, document=read_document(raw))
        except RulesError as error:
            problems += (replace(problem, part=name) for problem in error.problems)
    if problems:
        raise RulesError(problems)


def read_parts(path: Path) -> Parts:
    """Return the bytes of a rules file, or of all parts in a folder; raise RulesError that says what cannot be read.

    Parts are `*.yaml`, `*.yml` and `*.json`; hidden names are skipped. A folder in which a kubelet swaps `..data` is
    read whole from before the swap or whole from after it.
    """
    if not path.is_dir():
        return (("", read_file(path)),)
    for _ in range(MAX_LOOKS):
        before = _target(path)
        try:
            parts = _read_folder(before)
        except RulesError:
            if _target(path) == before:
                raise
            continue
        if _target(path) == before:
            return parts
    raise RulesError([Problem(path="", message=f"{path}: it changes all the time", hint="swap it less often")])


def folder_of(rules: Path) -> Path:
    """Return the folder in which files lie that the document names: the rules' own or their file's."""
    return rules if rules.is_dir() else rules.parent


def is_part(name: str) -> bool:
    """Return whether a file of this name is a part; editors' temporary files are hidden or end otherwise."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _target(folder: Path) -> Path:
    data = folder / DATA
    return data.resolve() if data.is_symlink() else folder


def _read_folder(folder: Path) -> Parts:
    try:
        names = sorted(path.name for path in folder.iterdir() if is_part(path.name))
    except OSError as error:
        raise RulesError([Problem(path="", message=f"{folder}: {error.strerror or error}")]) from None
    if not 1 <= len(names) <= MAX_PARTS:
        hint = f"1 to {MAX_PARTS} files that end with {', '.join(SUFFIXES)}"
        raise RulesError([Problem(path="", message=f"{folder}: {len(names)} parts of a rules document", hint=hint)])
    parts, left = [], MAX_RULES_BYTES
    for name in names:
        raw = read_file(folder / name)
        left -= len(raw)
        if left < 0:
            raise RulesError([Problem(path="", message=f"{folder}: the parts are larger than {MAX_RULES_BYTES} bytes")])
        parts.append((name, raw))
    return tuple(parts)


def read_file(path: Path) -> bytes:
    """Return a file's bytes; raise RulesError that says why it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_RULES_BYTES + 1)  # one more than is allowed, for `read_document` to refuse
    except OSError as error:
        raise RulesError([Problem(path="", message=f"{path}: {error.strerror or error}")]) from None


def read_secrets(folder: Path) -> dict[str, bytes]:
    """Return the files of a secrets folder by name; hidden names are skipped (a mounted Secret's `..data`)."""
    try:
        paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.is_file()]
        return {path.name: _bounded(path) for path in paths}
    except OSError as error:
        raise SecretsError(f"secrets folder {folder}: {error.strerror or error}") from None


def _bounded(path: Path) -> bytes:
    if path.stat().st_size > MAX_SECRET_BYTES:
        raise SecretsError(f"secret file {path.name!r} is larger than {MAX_SECRET_BYTES} bytes")
    return path.read_bytes()


def snapshot_of(book: RuleBook, files: dict[str, bytes]) -> Snapshot:
    """Return what the sidecar serves by; raise SecretsError."""
    ring: Keyring = keyring(files, tuple(book.rules.models), tuple(book.rules.stores))
    return Snapshot(book=book, keyring=ring)


class Source:
    """Rules (a file or a folder) and a secrets folder, read together.

    `read` returns the current bytes; `build` (slow for large documents) makes a Snapshot of them. `digest` identifies
    the bytes, so an event without a change is no reload.
    """

    def __init__(self, rules: Path, secrets: Path) -> None:
        self.rules = rules
        self.secrets = secrets

    def read(self) -> tuple[Parts, dict[str, bytes]]:
        """Return the rules' parts and the secrets' bytes by name; raise RulesError or SecretsError."""
        return read_parts(self.rules), read_secrets(self.secrets)

    def watched(self) -> Path:
        """Return the folder in which the rules change."""
        return folder_of(self.rules).resolve()

    def concerns_rules(self, changed: Path) -> bool:
        """Return whether a changed path in `watched` is the rules'. Other files may change many times a second."""
        name = changed.name
        return name.startswith("..") or (is_part(name) if self.rules.is_dir() else name == self.rules.name)

    @staticmethod
    def build(parts: Parts, files: dict[str, bytes]) -> Snapshot:
        """Return the snapshot of these bytes; raise RulesError or SecretsError."""
        return snapshot_of(RuleBook(rules_of(parts)), files)

    @staticmethod
    def digest(parts: Parts, files: dict[str, bytes]) -> str:
        """Return a short digest of the bytes; of the secrets, only that they changed can be told from it."""
        state = hashlib.sha256()
        for name, content in (*parts, ("", b""), *sorted(files.items())):
            state.update(b"\0" + name.encode("utf-8", "surrogateescape") + b"\0" + hashlib.sha256(content).digest())
        return state.hexdigest()[:16]
