"""Rules and secrets from disk, read strictly (invariant 9)."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from tenantry.adapters.rules_file import (
    MAX_ALIASES,
    MAX_DEPTH,
    MAX_RULES_BYTES,
    MAX_SECRET_BYTES,
    Source,
    read_document,
    read_file,
    read_rules,
    read_secrets,
)
from tenantry.core.errors import RulesError, SecretsError
from tenantry_testing.documents import document, secret_files


def complaint(raw: bytes) -> str:
    with pytest.raises(RulesError) as caught:
        read_document(raw)
    return str(caught.value)


def test_yaml_and_json_become_plain_data() -> None:
    text = b"# a comment\na: {b: [1, 2.5, true, ~]}\nc: 'x'\nd: 2027-01-15T08:00:00Z\n"
    assert read_document(text) == {
        "a": {"b": [1, 2.5, True, None]},
        "c": "x",
        "d": datetime(2027, 1, 15, 8, tzinfo=UTC),
    }
    assert read_document(b'{"a":{"b":[1,2.5,true,null]},"c":"\\u00e9"}') == {
        "a": {"b": [1, 2.5, True, None]},
        "c": "\u00e9",
    }
    assert read_document("a: \u00e9\r\nb: 1\r\n".encode()) == {"a": "\u00e9", "b": 1}
    assert read_document(b"\xef\xbb\xbfa: 1") == {"a": 1}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"a: 1\nb: 2\na: 3\n", 'line 3: key "a" stands at line 1 already'),
        (b"a: 1\na: 1\n", 'line 2: key "a" stands at line 1 already'),
        (b"{a: 1, b: 2, a: 3}", 'line 1: key "a" stands at line 1 already'),
        (b'{"a":1,"a":2}', 'line 1: key "a" stands at line 1 already'),
        (b"a: 1\n'a': 2\n", 'line 2: key "a" stands at line 1 already'),
        (b'a: 1\n"\\x61": 2\n', 'line 2: key "a" stands at line 1 already'),
        (b"a: 1\n? a\n: 2\n", 'line 2: key "a" stands at line 1 already'),
        (b"1: a\n'1': b\n", 'line 2: key "1" stands at line 1 already'),
        (b"x:\n  - y:\n      z: 1\n      z: 2\n", 'line 4: key "z" stands at line 3 already'),
        (b"x: [{z: 1,\n z: 2}]", 'line 2: key "z" stands at line 1 already'),
        (b"&k a: 1\n*k : 2\n", 'key "a" stands at line 1 already'),
    ],
)
def test_a_key_that_stands_twice_is_named_with_both_lines(raw: bytes, says: str) -> None:
    assert says in complaint(raw)


def test_the_same_key_in_two_mappings_is_fine() -> None:
    assert read_document(b"a: {x: 1}\nb: {x: 1, a: 2}\n") == {"a": {"x": 1}, "b": {"x": 1, "a": 2}}


def test_an_anchor_saves_typing() -> None:
    assert read_document(b"a: &e [h:1]\nb: *e\n") == {"a": ["h:1"], "b": ["h:1"]}
    many = read_document(b"a: &a x\nb: [" + b"*a," * MAX_ALIASES + b"]")
    assert isinstance(many, dict)
    assert many["b"] == ["x"] * MAX_ALIASES


def test_but_not_without_bound() -> None:
    assert f"line 2: more than {MAX_ALIASES} aliases" in complaint(b"a: &a x\nb: [" + b"*a," * (MAX_ALIASES + 1) + b"]")


def test_a_merge_key_is_refused() -> None:
    """Nested, they multiply: nine such lines held 10^9 pairs and the process all the memory there was."""
    assert "line 2: merge keys (<<) are not supported" in complaint(b"a: &a {x: 1}\nb: {<<: *a}\n")
    bomb = "a0: &a0 {x: 1, y: 1}\n"
    bomb += "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10))
    assert "merge keys" in complaint(bomb.encode())
    assert read_document(b'{"<<": 1}') == {"<<": 1}  # in quotes it is a key like any other


def test_an_alias_of_what_is_around_it_does_not_hang() -> None:
    for raw in (b"&x {version: 1, tiers: *x}", b"&x [*x]", b"version: 1\nmodels: {}\ntiers: &t {gold: *t}"):
        with pytest.raises(RulesError):
            read_rules(raw)


def test_depth_has_a_bound() -> None:
    def nested(depth: int) -> bytes:
        return b"[" * depth + b"]" * depth

    read_document(nested(MAX_DEPTH))
    read_document(b"[" + nested(MAX_DEPTH - 1) + b"," + nested(MAX_DEPTH - 1) + b"]")
    assert f"line 1: nested deeper than {MAX_DEPTH} levels" in complaint(nested(MAX_DEPTH + 1))
    assert "nested deeper" in complaint(b"[" + b"[]," * 50 + nested(MAX_DEPTH) + b"]")
    assert "line 33: nested deeper" in complaint("".join(f"{' ' * n}a:\n" for n in range(40)).encode())


@pytest.mark.parametrize("raw", ["b'[' * 100_000 + b']' * 100_000", "b'{a: ' * 100_000", "b'- ' * 100_000"])
def test_no_document_ends_the_process(raw: str) -> None:
    """libyaml composes by C recursion: this was a segmentation fault, of a sidecar in service."""
    code = f"""
from tenantry.adapters.rules_file import read_document
from tenantry.core.errors import RulesError
try:
    read_document({raw})
except RulesError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()[-30:]) == (0, "1: nested deeper than 32 levels"[-30:])


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"a:\n\tb: 1", "line 2"),
        (b"a: [1, 2", "line 1"),
        (b"a: b: c", "mapping values are not allowed"),
        (b"a: \xff", "invalid leading UTF-8 octet"),
        (b"\xff\xfe\xff", "incomplete UTF-16 character"),
        (b"a: \x00", "control characters are not allowed"),
        (b"--- 1\n--- 2", "another document"),
        (b"a: *unknown", "undefined alias"),
        (b"? [a]\n: 1", "unhashable key"),
        (b"!!python/object/apply:os.system [id]", "could not determine a constructor"),
        (b"!env HOME", "could not determine a constructor"),
        # an explicit tag on a value that it does not fit: PyYAML lets its own KeyError, IndexError, ... out
        (b"!!bool maybe", "does not fit its tag"),
        (b"!!int ''", "does not fit its tag"),
        (b"!!float x", "does not fit its tag"),
        (b"!!timestamp x", "does not fit its tag"),
        (b"2027-02-30", "does not fit its tag"),
        (b"!!map [a]", "expected a mapping node"),
        (b"!!set [a]", "expected a mapping node"),
        (b"!!map x", "expected a mapping node"),
    ],
)
def test_what_is_not_yaml_is_said_to_be_not(raw: bytes, says: str) -> None:
    found = complaint(raw)
    assert found.startswith("(document): not valid YAML: ")
    assert says in found


@pytest.mark.parametrize("raw", [b"", b"\n", b"# nothing\n", b"~", b"[]", b"rules", b"--- \n...\n"])
def test_an_empty_document_or_another_one_altogether(raw: bytes) -> None:
    with pytest.raises(RulesError, match=r"\(document\): expected a mapping, got (nothing|list|string)"):
        read_rules(raw)


def test_the_python_parser_is_as_strict() -> None:
    """Where PyYAML was built without libyaml."""
    code = """
import yaml
del yaml.CSafeLoader
from tenantry.adapters.rules_file import read_document
from tenantry.core.errors import RulesError
assert read_document(b"a: [1, {b: 2}]") == {"a": [1, {"b": 2}]}
for raw in (b"a: 1\\na: 1", b"a: &a {x: 1}\\nb: {<<: *a}", b"[" * 100_000, b"!!bool x"):
    try:
        print(read_document(raw))
    except RulesError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        '(document): not valid YAML: line 2: key "a" stands at line 1 already',
        "(document): not valid YAML: line 2: merge keys (<<) are not supported; write the keys out",
        "(document): not valid YAML: line 1: nested deeper than 32 levels",
        "(document): not valid YAML: a value does not fit its tag (KeyError: 'x')",
    ]


def test_a_document_has_a_greatest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_RULES_BYTES >= 1024 * 1024
    monkeypatch.setattr("tenantry.adapters.rules_file.MAX_RULES_BYTES", 100)
    path = tmp_path / "rules.yaml"
    path.write_bytes(b"a: 1".ljust(100))
    assert read_document(read_file(path)) == {"a": 1}
    path.write_bytes(b"a: 1".ljust(10_000))
    raw = read_file(path)
    assert len(raw) == 101  # no more is read than is needed to refuse it
    assert "larger than 100 bytes" in complaint(raw)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(RulesError, match=why) as caught:
            read_file(path)
        assert str(path) in str(caught.value)


def test_secrets_are_the_visible_files_of_a_folder(tmp_path: Path) -> None:
    mounted = tmp_path / "..2027_01_15"
    mounted.mkdir()
    (mounted / "split").write_bytes(b"x" * MAX_SECRET_BYTES)
    (tmp_path / "..data").symlink_to(mounted.name)
    (tmp_path / "split").symlink_to("..data/split")
    (tmp_path / ".hidden").write_bytes(b"no")
    (tmp_path / "folder").mkdir()
    assert read_secrets(tmp_path) == {"split": b"x" * MAX_SECRET_BYTES}


def test_secrets_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SecretsError, match=r"secrets folder .*none: No such file"):
        read_secrets(tmp_path / "none")
    (tmp_path / "split").write_bytes(b"x" * (MAX_SECRET_BYTES + 1))
    with pytest.raises(SecretsError, match="'split' is larger than 65536 bytes"):
        read_secrets(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(document()))
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name, content in (secret_files() | {"engine.embed": b"for-embed"}).items():
        (folder / name).write_bytes(content)
    return Source(tmp_path / "rules.yaml", folder)


def test_a_source_makes_a_snapshot(source: Source) -> None:
    snapshot = source.build(*source.read())
    assert snapshot.book.profile("acme") is not None
    assert (snapshot.keyring.engine_secret("embed"), snapshot.keyring.engine_secret("chat-8b")) == ("for-embed", None)


def test_a_digest_tells_every_change_apart(source: Source) -> None:
    seen = {source.digest(*source.read())}
    assert source.digest(*source.read()) in seen
    changes = {
        source.rules: source.rules.read_bytes() + b"\n",
        source.secrets / "split": b"y" * 32,
        source.secrets / "engine": b"new",
    }
    for path, content in changes.items():
        path.write_bytes(content)
        seen.add(source.digest(*source.read()))
    (source.secrets / "engine").rename(source.secrets / "engine.x")
    seen.add(source.digest(*source.read()))
    assert len(seen) == 5


def test_either_part_can_be_at_fault(source: Source) -> None:
    raw, files = source.read()
    with pytest.raises(RulesError):
        source.build((("", b"version: 2"),), files)
    with pytest.raises(SecretsError):
        source.build(raw, {})
