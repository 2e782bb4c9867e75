"""Secrets as values: key material from files, and what is derived from it.

The rules document never holds a secret. Files are read by an adapter and shared by all replicas;
this module checks them and derives from them. Rotating a file changes the derived values at the
next reload: a new cache salt only costs cold prefix caches.
"""

import base64
import hmac
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from tenantry.core.errors import SecretsError

CACHE_SALT = "cache-salt"
SPLIT = "split"
ADMIN_TOKEN = "admin-token"  # noqa: S105  # the file's name
USAGE_TOKEN = "usage-token"  # noqa: S105  # the file's name
ENGINE = "engine"
STORE = "store"
WEBHOOK = "revert-webhook"

REQUIRED = (CACHE_SALT, SPLIT, ADMIN_TOKEN, USAGE_TOKEN)
MIN_BYTES = 32
"""256 bits: what HMAC-SHA256 and a bearer token deserve."""


class Keyring(Struct, frozen=True, kw_only=True):
    """Key material of one moment. Its repr never shows a value."""

    cache_salt: bytes
    split: bytes
    admin_token: bytes
    usage_token: bytes
    webhook: str | None
    engine_default: str | None
    engine_by_model: Mapping[str, str]
    store_by_name: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return "Keyring(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []  # msgspec's own would show every field wherever rich prints a value

    def engine_secret(self, model: str) -> str | None:
        """Return the bearer token that the model's engines expect, or None when they expect none."""
        return self.engine_by_model.get(model, self.engine_default)

    def store_secret(self, store: str) -> str | None:
        """Return what the store asks of us: `USER:PASSWORD` or a token (Milvus), an API key (Pinecone), or None."""
        return self.store_by_name.get(store)

    def salt_for(self, tenant: str) -> str:
        r"""Return the tenant's prefix-cache salt: 43 characters of base64url.

        A keyed hash, so that a tenant cannot compute another's salt from its name. vLLM bounds a
        salt to 128 characters without `@ / \` and NUL (vllm/entrypoints/generate/base/protocol.py).
        """
        mac = hmac.digest(self.cache_salt, b"tenantry cache salt v1\0" + tenant.encode(), "sha256")
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def required(files: Mapping[str, bytes], name: str) -> bytes:
    """Return a required file's content, stripped; raise SecretsError when it is missing or too short."""
    raw = files.get(name)
    if raw is None:
        raise SecretsError(f"secret file {name!r} is missing; `tenantry secrets new DIR` writes a fresh set")
    value = raw.strip()
    if len(value) < MIN_BYTES:
        raise SecretsError(f"secret file {name!r} holds {len(value)} bytes; at least {MIN_BYTES} are needed")
    return value


def keyring(files: Mapping[str, bytes], models: tuple[str, ...] = (), stores: tuple[str, ...] = ()) -> Keyring:
    """Build a Keyring from file names and contents; raise SecretsError naming the file at fault.

    `cache-salt`, `split`, `admin-token` and `usage-token` (which engines post usage records with)
    are required, of at least 32 bytes. `revert-webhook` is the URL that is told of reverts (such
    URLs hold a token of the service behind them). `engine` is the bearer token for all engines;
    `engine.NAME` is the one for the model whose name, with `/` and `:` written as `_`, is NAME.
    `store.NAME` is what the vector store NAME asks of us. White space around a file's content is not part of it.
    """
    content = {name: raw.strip() for name, raw in files.items()}
    for name in REQUIRED:
        required(files, name)
    by_model = {}
    for model in models:
        name = f"{ENGINE}.{model.replace('/', '_').replace(':', '_')}"
        value = content.get(name)
        if value is not None:
            by_model[model] = _bearer(value, name)
    by_store = {}
    for store in stores:
        value = content.get(f"{STORE}.{store}")
        if value is not None:
            by_store[store] = _bearer(value, f"{STORE}.{store}")
    default = content.get(ENGINE)
    return Keyring(
        cache_salt=content[CACHE_SALT],
        split=content[SPLIT],
        admin_token=content[ADMIN_TOKEN],
        usage_token=content[USAGE_TOKEN],
        webhook=_webhook(content.get(WEBHOOK)),
        engine_default=None if default is None else _bearer(default, ENGINE),
        engine_by_model=by_model,
        store_by_name=by_store,
    )


def _webhook(value: bytes | None) -> str | None:
    if not value:
        return None
    if not value.startswith((b"https://", b"http://")) or not all(0x21 <= byte <= 0x7E for byte in value):
        raise SecretsError(f"secret file {WEBHOOK!r} must hold one URL that begins with https:// or http://")
    return value.decode("ascii")


def _bearer(value: bytes, name: str) -> str:
    if not value or not all(0x21 <= byte <= 0x7E for byte in value):
        raise SecretsError(f"secret file {name!r} must hold visible ASCII on one line: it becomes a header")
    return value.decode("ascii")
