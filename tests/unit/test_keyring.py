"""Secrets: which files there must be, and what is derived from them."""

import base64
import hashlib
import hmac

import pytest
from rich.pretty import pretty_repr
from tenantry.core import keyring as keyrings
from tenantry.core.errors import SecretsError
from tenantry.core.session import Snapshot
from tenantry_testing.documents import keyring, secret_files

MODELS = ("chat-8b", "org/chat:70b")


def test_files_become_key_material_without_the_white_space_around_them() -> None:
    ring = keyrings.keyring(
        {"cache-salt": b"s" * 32 + b"\n", "split": b" \t" + b"p" * 32, "admin-token": b"a" * 32,
         "usage-token": b"u" * 32 + b"\n", "engine": b"token\r\n"}
    )  # fmt: skip
    assert (ring.cache_salt, ring.split, ring.admin_token) == (b"s" * 32, b"p" * 32, b"a" * 32)
    assert (ring.usage_token, ring.webhook) == (b"u" * 32, None)
    assert ring.engine_secret("any") == "token"


@pytest.mark.parametrize("name", ["cache-salt", "split", "admin-token", "usage-token"])
def test_what_is_missing_or_short_is_named(name: str) -> None:
    files = secret_files()
    with pytest.raises(SecretsError, match=f"'{name}' holds 31 bytes; at least 32 are needed"):
        keyrings.keyring(files | {name: b"x" * 31 + b" \n"})
    del files[name]
    with pytest.raises(SecretsError, match=f"'{name}' is missing; `tenantry secrets new DIR`"):
        keyrings.keyring(files)


def test_engines_have_a_secret_of_their_own_or_the_common_one_or_none() -> None:
    files = secret_files(engine=b"common") | {"engine.org_chat_70b": b"special"}
    ring = keyrings.keyring(files, MODELS)
    assert ring.engine_secret("org/chat:70b") == "special"
    assert ring.engine_secret("chat-8b") == "common"
    assert keyrings.keyring(secret_files(), MODELS).engine_secret("chat-8b") is None


@pytest.mark.parametrize("content", [b"", b"  ", b"two words", b"two\nlines", b"caf\xc3\xa9", b"\x7f"])
@pytest.mark.parametrize("file", ["engine", "engine.org_chat_70b"])
def test_an_engine_secret_must_fit_into_a_header(file: str, content: bytes) -> None:
    with pytest.raises(SecretsError, match=f"secret file '{file}' must hold visible ASCII on one line"):
        keyrings.keyring(secret_files() | {file: content}, MODELS)


def test_every_visible_character_fits() -> None:
    visible = bytes(range(0x21, 0x7F))
    assert keyring(engine=visible).engine_secret("chat-8b") == visible.decode()


def test_an_error_never_shows_a_secret() -> None:
    for bad in (secret_files(split=b"CANARY"), secret_files(engine=b"CANARY CANARY")):
        with pytest.raises(SecretsError) as caught:
            keyrings.keyring(bad)
        assert "CANARY" not in str(caught.value)


def test_a_salt_is_a_keyed_hash_of_the_tenant() -> None:
    """Invariant 2: without the key, knowing a tenant's name does not tell its salt."""
    ring = keyring()
    mac = hmac.new(ring.cache_salt, b"tenantry cache salt v1\0acme", hashlib.sha256).digest()
    assert ring.salt_for("acme") == base64.urlsafe_b64encode(mac).decode().rstrip("=")
    assert (
        len({ring.salt_for("acme"), ring.salt_for("globex"), keyring(**{"cache-salt": b"x" * 32}).salt_for("acme")})
        == 3
    )


def test_a_salt_fits_the_bounds_that_vllm_sets() -> None:
    for tenant in ("a", "x" * 63, *map(str, range(200))):
        salt = keyring().salt_for(tenant)
        assert len(salt) == 43
        assert not set(salt) & set("@/\\\0=+")


def test_no_representation_shows_a_value() -> None:
    ring = keyring(engine=b"CANARY", **{"cache-salt": b"CANARY" * 6})
    holder = Snapshot(book=None, keyring=ring)  # type: ignore[arg-type]
    for text in (repr(ring), str(ring), f"{ring}", repr(holder), pretty_repr(ring), pretty_repr(holder)):
        assert "Keyring" in text
        assert "CANARY" not in text


def test_a_webhook_is_a_url() -> None:
    assert keyrings.keyring(secret_files(**{"revert-webhook": b" https://chat.example/T0/x\n"})).webhook == (
        "https://chat.example/T0/x"
    )
    for wrong in (b"chat.example", b"ftp://x", b"https://two\nhttps://urls"):
        with pytest.raises(SecretsError, match="'revert-webhook' must hold one URL"):
            keyrings.keyring(secret_files(**{"revert-webhook": wrong}))
