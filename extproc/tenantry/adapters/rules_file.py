"""Rules and secrets from disk.

Reads YAML (JSON is YAML) strictly: a key that stands twice is an error with its line, where YAML
libraries silently keep the last; anchors that would expand beyond the file's bound are refused.
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


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """SafeLoader (libyaml where it is built in) that refuses duplicate keys and alias bombs."""

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                raise yaml.YAMLError(f"more than {MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002  # PyYAML's signature
        seen: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                raise yaml.YAMLError(f'line {line}: key "{name}" stands at line {seen[name]} already')
            seen[name] = line
        return super().construct_mapping(node, deep=deep)


def read_document(raw: bytes) -> object:
    """Parse YAML bytes to plain data; raise RulesError that names the line."""
    if len(raw) > MAX_RULES_BYTES:
        raise RulesError([Problem(path="", message=f"the document is larger than {MAX_RULES_BYTES} bytes")])
    try:
        return yaml.load(raw, _StrictLoader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise RulesError([Problem(path="", message=f"not valid YAML: {error}")]) from None


def read_rules(raw: bytes) -> Rules:
    """Parse and validate a rules document; raise RulesError with every problem."""
    return parse(read_document(raw))


def read_file(path: Path) -> bytes:
    """Return a file's bytes; raise RulesError that says why it cannot be read."""
    try:
        return path.read_bytes()
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
        ring: Keyring = keyring(files, tuple(rules.models))
        return Snapshot(book=RuleBook(rules), keyring=ring)

    @staticmethod
    def digest(raw: bytes, files: dict[str, bytes]) -> str:
        """Return a short digest of the bytes; of the secrets, only that they changed can be told from it."""
        state = hashlib.sha256(raw)
        for name, content in sorted(files.items()):
            state.update(b"\0" + name.encode() + b"\0" + hashlib.sha256(content).digest())
        return state.hexdigest()[:16]
