"""How API keys are made, rotated and taken away."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from tenantry.core.apikeys import Entry, digest, digest_text, new_key, revoked, rotated
from tenantry.core.errors import TenantryError

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
DAY = timedelta(days=1)
TOMORROW = "2027-01-16T08:00:00+00:00"
A, B, NEW = (f"sha256:{letter * 64}" for letter in "abc")


def test_a_key_is_32_random_bytes_in_visible_characters() -> None:
    key = new_key(bytes(range(32)))
    assert key == "tk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert new_key(b"\xff" * 32) == "tk_" + "_" * 42 + "8"  # the URL-safe alphabet: no +, no /


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_any_other_size_is_refused(size: int) -> None:
    with pytest.raises(TenantryError, match=f"needs 32 random bytes, got {size}"):
        new_key(bytes(size))


def test_a_key_is_known_by_its_sha256_digest() -> None:
    assert digest(b"tk_x") == hashlib.sha256(b"tk_x").digest()
    assert digest_text("tk_x") == "sha256:" + hashlib.sha256(b"tk_x").hexdigest()


def test_rotation_puts_the_new_key_first_and_lets_the_others_end() -> None:
    assert rotated([A, B], NEW, NOW, DAY) == [
        NEW,
        {"digest": A, "notAfter": TOMORROW},
        {"digest": B, "notAfter": TOMORROW},
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, TOMORROW),
        ("2027-01-15T12:00:00Z", "2027-01-15T12:00:00Z"),  # ends sooner: stays
        ("2027-01-16T08:00:00Z", "2027-01-16T08:00:00Z"),  # ends then: stays as it was written
        ("2027-01-20T12:00:00Z", TOMORROW),
        ("2027-01-16T09:30:00+02:00", "2027-01-16T09:30:00+02:00"),  # half past seven in UTC
        (datetime(2027, 1, 20, tzinfo=UTC), TOMORROW),  # as YAML reads an unquoted one
    ],
)
def test_rotation_never_lengthens_a_life(before: object, after: object) -> None:
    entry: Entry = {"digest": A, "name": "laptop"} | ({} if before is None else {"notAfter": before})
    assert rotated([entry], NEW, NOW, DAY) == [NEW, {"digest": A, "name": "laptop", "notAfter": after}]


@pytest.mark.parametrize("which", [A, "a" * 8, "sha256:" + "a" * 8])
def test_revoking_takes_the_one_key_away(which: str) -> None:
    assert revoked([A, {"digest": B, "name": "ci"}], which) == [{"digest": B, "name": "ci"}]
    assert revoked([B, {"digest": A}], which) == [B]


@pytest.mark.parametrize(
    ("entries", "which", "complaint"),
    [
        ([A, B], "d" * 8, "names 0 of the tenant's keys"),
        ([A, A[:-1] + "0"], "a" * 8, "names 2 of the tenant's keys"),
        ([A], "a" * 7, "at least 8 hex digits"),  # it names one key, but by too little to be meant
        ([A], "", "at least 8 hex digits"),
        ([], "a" * 8, r"known: none"),
        ([A, B], "d" * 8, r"known: sha256:aaaaaaaaaaaa, sha256:bbbbbbbbbbbb\)"),
    ],
)
def test_revoking_is_refused_unless_it_names_exactly_one(entries: list[Entry], which: str, complaint: str) -> None:
    with pytest.raises(TenantryError, match=complaint):
        revoked(entries, which)
