"""A folder of secrets: written once, readable by its owner only, never overwritten."""

from pathlib import Path

from tenantry.adapters.rules_file import read_secrets
from tenantry.adapters.secrets_folder import write_missing
from tenantry.core.keyring import REQUIRED, keyring


def test_a_fresh_folder_has_all_that_a_sidecar_needs(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "secrets"
    assert write_missing(folder) == list(REQUIRED)
    ring = keyring(read_secrets(folder))
    values = (ring.cache_salt, ring.split, ring.admin_token)
    assert len(set(values)) == 3
    assert all(len(value) >= 43 for value in values)  # 256 bits as base64


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    write_missing(folder)
    assert oct(folder.stat().st_mode)[-3:] == "700"
    assert {oct(path.stat().st_mode)[-3:] for path in folder.iterdir()} == {"600"}


def test_two_folders_share_nothing(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        write_missing(tmp_path / name)
        contents += [path.read_bytes() for path in (tmp_path / name).iterdir()]
    assert len(set(contents)) == 2 * len(REQUIRED)


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "split").write_text("mine")
    assert write_missing(tmp_path) == ["cache-salt", "admin-token", "usage-token"]
    assert (tmp_path / "split").read_text() == "mine"
    before = read_secrets(tmp_path)
    assert write_missing(tmp_path) == []
    assert read_secrets(tmp_path) == before
