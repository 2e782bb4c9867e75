"""API keys: how they are made, and what is kept of them.

A key is 32 random bytes; only its SHA-256 digest is stored. A plain digest is enough where a
password would need a slow hash, since 256 random bits cannot be guessed.
"""

import base64
import hashlib
from datetime import datetime, timedelta

from tenantry.core.errors import TenantryError

PREFIX = "tk_"
RANDOM_BYTES = 32


def new_key(random: bytes) -> str:
    """Return a key (`tk_` and 43 characters) made of 32 random bytes."""
    if len(random) != RANDOM_BYTES:
        raise TenantryError(f"a key needs {RANDOM_BYTES} random bytes, got {len(random)}")
    return PREFIX + base64.urlsafe_b64encode(random).rstrip(b"=").decode()


def digest(key: bytes) -> bytes:
    """Return the 32-byte SHA-256 digest by which a key is known."""
    return hashlib.sha256(key).digest()


def digest_text(key: str) -> str:
    """Return the digest as the rules document writes it, `sha256:` and 64 hex digits."""
    return "sha256:" + digest(key.encode()).hex()


Entry = str | dict[str, object]
"""A key in the plain document: a digest, or a mapping with `digest`, `notAfter`, `name`."""


def rotated(entries: list[Entry], new_digest: str, now: datetime, overlap: timedelta) -> list[Entry]:
    """Return the entries with a new one first and every other ending after `overlap` at the latest."""
    end = now + overlap
    return [new_digest, *(_ending(entry, end) for entry in entries)]


def revoked(entries: list[Entry], which: str) -> list[Entry]:
    """Return the entries without the one whose digest begins with `which`; exactly one must match."""
    text = which if which.startswith("sha256:") else f"sha256:{which}"
    kept = [entry for entry in entries if not _digest_of(entry).startswith(text)]
    gone = len(entries) - len(kept)
    if gone != 1 or len(text) < len("sha256:") + 8:
        known = ", ".join(_digest_of(entry)[:19] for entry in entries) or "none"
        raise TenantryError(
            f"{which!r} names {gone} of the tenant's keys; give at least 8 hex digits of exactly one (known: {known})"
        )
    return kept


def _digest_of(entry: Entry) -> str:
    return entry if isinstance(entry, str) else str(entry["digest"])


def _ending(entry: Entry, end: datetime) -> Entry:
    if isinstance(entry, str):
        return {"digest": entry, "notAfter": end.isoformat()}
    before = entry.get("notAfter")
    if before is not None and datetime.fromisoformat(str(before)) <= end:
        return entry
    return {**entry, "notAfter": end.isoformat()}
