"""Rules and secrets from disk.

Reads YAML (JSON is YAML) strictly: a key that stands twice is an error with its line, where YAML
libraries silently keep the last. Depth and aliases are bounded before anything is built of them:
libyaml composes by C recursion, and 100,000 brackets would end the process with a segmentation
fault. Merge keys (`<<`) are refused: nested, they multiply (nine lines held 10^9 pairs), and which
value counts is hard to see.
"""

import hashlib
from pathlib import Path
from typing import Any

import yaml

from tenantry.core.errors import Problem, RulesError, SecretsError
from tenantry.core.keyring import Keyring, keyring
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules, parse
from tenantry.core.session import Snapshot

MAX_RULES_BYTES = 64 * 1024 * 1024
MAX_SECRET_BYTES = 64 * 1024
MAX_ALIASES = 1000
MAX_DEPTH = 32
"""The schema is six levels deep."""


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
    return parse(read_document(raw))


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


class Source:
    """A rules file and a secrets folder, read together.

    `read` returns the current bytes; `build` (slow for large documents, safe in a thread) makes a
    Snapshot of them. `digest` identifies the bytes, so an event without a change is no reload.
    """

    def __init__(self, rules: Path, secrets: Path) -> None:
        self.rules = rules
        self.secrets = secrets

    def read(self) -> tuple[bytes, dict[str, bytes]]:
        """Return the rules' bytes and the secrets' by name; raise RulesError or SecretsError."""
        return read_file(self.rules), read_secrets(self.secrets)

    @staticmethod
    def build(raw: bytes, files: dict[str, bytes]) -> Snapshot:
        """Return the snapshot of these bytes; raise RulesError or SecretsError."""
        rules = read_rules(raw)
        ring: Keyring = keyring(files, tuple(rules.models), tuple(rules.stores))
        return Snapshot(book=RuleBook(rules), keyring=ring)

    @staticmethod
    def digest(raw: bytes, files: dict[str, bytes]) -> str:
        """Return a short digest of the bytes; of the secrets, only that they changed can be told from it."""
        state = hashlib.sha256(raw)
        for name, content in sorted(files.items()):
            state.update(b"\0" + name.encode() + b"\0" + hashlib.sha256(content).digest())
        return state.hexdigest()[:16]
