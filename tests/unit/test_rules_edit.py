"""Keys in a rules file, edited in place: the diff shows the keys and nothing else."""

import difflib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tenantry.adapters.rules_edit import Edit, edit_keys, rewrite
from tenantry.adapters.rules_file import read_rules
from tenantry.core.apikeys import Entry, revoked, rotated
from tenantry.core.errors import RulesError, TenantryError
from tenantry.core.rules import key_of

A, B, C, D, NEW, NEWER = (f"sha256:{letter * 64}" for letter in "abcdef")
NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
TOMORROW = "2027-01-16T08:00:00+00:00"

RULES = f"""\
# Who may do what. Ask Zo\u00eb before you change it.
version: 1   # the only one
tiers: {{gold: {{}}}}
models: {{}}
defaultTier:   "gold"

tenants:
  # the first customer
  acme:
    keys:   # rotated each quarter
      # Ann's
      - {A}  # laptop
      # Bob's
      - "{B}"
    # asked for it in May
    beta: yes
  globex: {{keys: ['{C}'], beta: false}}   # on one line
  initech:
    keys:
    - digest: {D}   # the old one
      # until the move
      notAfter: 2027-06-01T00:00:00Z   # summer
      name: ci
  umbrella:
    # nothing yet
    beta: true
  hooli: {{}}
  stark: {{beta: true}}
  wayne:
    keys: []   # none
    tier: gold
limits: {{maxBodyBytes: 1_048_576}}
# the end"""


def fresh(entries: list[Entry]) -> list[Entry]:
    return [NEW, *entries]


def rotate(entries: list[Entry]) -> list[Entry]:
    return rotated(entries, NEW, NOW, timedelta(days=1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    return file


def diff(path: Path, tenant: str, edit: Edit) -> list[str]:
    """Edit, and return the lines that went and came."""
    before = path.read_bytes().decode()
    edit_keys(path, tenant, edit)
    lines = difflib.unified_diff(before.split("\n"), path.read_bytes().decode().split("\n"), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


def test_a_new_key_comes_first_above_the_comments(path: Path) -> None:
    assert diff(path, "acme", fresh) == [f'+      - "{NEW}"']
    assert path.read_text().index(NEW) < path.read_text().index("# Ann's")


def test_rotation_writes_the_ends_of_the_others_where_they_stand(path: Path) -> None:
    assert diff(path, "acme", rotate) == [
        f'+      - "{NEW}"',
        f"-      - {A}  # laptop",
        f'+      - {{digest: {A}, notAfter: "{TOMORROW}"}}  # laptop',
        f'-      - "{B}"',
        f'+      - {{digest: "{B}", notAfter: "{TOMORROW}"}}',
    ]


def test_a_long_entry_keeps_its_comments(path: Path) -> None:
    assert diff(path, "initech", rotate) == [
        f'+    - "{NEW}"',
        "-      notAfter: 2027-06-01T00:00:00Z   # summer",
        f'+      notAfter: "{TOMORROW}"   # summer',
    ]
    # Another rotation with a longer overlap: the first end stands, only the key between gets one.
    assert diff(path, "initech", lambda entries: rotated(entries, NEWER, NOW, timedelta(days=2))) == [
        f'-    - "{NEW}"',
        f'+    - "{NEWER}"',
        f'+    - {{digest: "{NEW}", notAfter: "2027-01-17T08:00:00+00:00"}}',
    ]


def test_a_long_entry_without_an_end_gets_one(path: Path) -> None:
    block = f"digest: {D}   # the old one\n      name: ci"
    flow = f"digest: {D}, name: ci}}"
    for written, expected in (
        (f"- {block}", f'- notAfter: "{TOMORROW}"\n      {block}'),
        (f"- {{{flow}", f'- {{notAfter: "{TOMORROW}", {flow}'),
    ):
        text = RULES[: RULES.index(f"- digest: {D}")] + written + RULES[RULES.index("\n  umbrella:") :]
        path.write_text(text)
        edit_keys(path, "initech", rotate)
        assert path.read_text() == text.replace(written, f'- "{NEW}"\n    {expected}')


def test_a_revoked_key_goes_with_its_line(path: Path) -> None:
    assert diff(path, "acme", lambda entries: revoked(entries, A)) == [f"-      - {A}  # laptop"]
    assert diff(path, "acme", lambda entries: revoked(entries, B)) == [
        "-    keys:   # rotated each quarter",
        "+    keys: []   # rotated each quarter",
        f'-      - "{B}"',
    ]
    assert "# asked for it in May" in path.read_text()
    assert diff(path, "initech", lambda entries: revoked(entries, D)) == [
        "-    keys:",
        f"-    - digest: {D}   # the old one",
        "-      # until the move",
        "-      notAfter: 2027-06-01T00:00:00Z   # summer",
        "-      name: ci",
        "+    keys: []",
    ]


def test_keys_on_one_line(path: Path) -> None:
    line = f"  globex: {{keys: ['{C}'], beta: false}}   # on one line"
    both = line.replace("['", f'["{NEW}", \'')
    assert diff(path, "globex", fresh) == ["-" + line, "+" + both]
    assert diff(path, "globex", lambda entries: revoked(entries, C))[1] == "+" + line.replace(f"'{C}'", f'"{NEW}"')
    assert diff(path, "globex", lambda entries: revoked(entries, NEW))[1] == "+" + line.replace(f"'{C}'", "")
    assert diff(path, "globex", rotate)[1] == "+" + line.replace(f"'{C}'", f'"{NEW}"')


def test_several_new_ones_and_long_ones(path: Path) -> None:
    long: Entry = {"digest": NEWER, "name": "ci"}
    both = f'"{NEW}", {{digest: "{NEWER}", name: "ci"}}'
    for tenant, expected in {
        "acme": [f'+      - "{NEW}"', f'+      - {{digest: "{NEWER}", name: "ci"}}'],
        "wayne": ["-    keys: []   # none", f"+    keys: [{both}]   # none"],
        "stark": ["-  stark: {beta: true}", f"+  stark: {{keys: [{both}], beta: true}}"],
    }.items():
        path.write_text(RULES)
        assert diff(path, tenant, lambda entries: [NEW, long, *entries]) == expected


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_one_of_three_on_one_line(path: Path, gone: int) -> None:
    three = [NEW, NEWER, "sha256:" + "9" * 64]
    path.write_text(RULES.replace("stark: {beta: true}", f"stark: {{keys: [{', '.join(three)}]}}"))
    kept = three[:gone] + three[gone + 1 :]
    assert diff(path, "stark", lambda _: list(kept))[1:] == [f"+  stark: {{keys: [{', '.join(kept)}]}}"]


def test_the_last_line_of_a_file_without_an_end_of_line(path: Path) -> None:
    path.write_text(
        f"version: 1\ntiers: {{a: {{}}}}\nmodels: {{}}\ntenants:\n  x:\n    tier: a\n    keys:\n    - {A}\n    - {B}"
    )
    assert diff(path, "x", lambda entries: revoked(entries, B)) == [f"-    - {B}", "+"]
    assert f'+    - "{NEW}"' in diff(path, "x", rotate)


def test_the_first_of_two_on_one_line(path: Path) -> None:
    edit_keys(path, "globex", fresh)
    assert diff(path, "globex", lambda entries: revoked(entries, NEW))[1] == (
        f"+  globex: {{keys: ['{C}'], beta: false}}   # on one line"
    )


@pytest.mark.parametrize(
    ("tenant", "expected"),
    [
        ("umbrella", [f'+    keys: ["{NEW}"]']),
        ("hooli", ["-  hooli: {}", f'+  hooli: {{keys: ["{NEW}"]}}']),
        ("stark", ["-  stark: {beta: true}", f'+  stark: {{keys: ["{NEW}"], beta: true}}']),
        ("wayne", ["-    keys: []   # none", f'+    keys: ["{NEW}"]   # none']),
    ],
)
def test_a_tenants_first_key(path: Path, tenant: str, expected: list[str]) -> None:
    assert diff(path, tenant, fresh) == expected


@pytest.mark.parametrize("tenant", ["acme", "globex", "initech", "umbrella", "hooli", "stark", "wayne"])
@pytest.mark.parametrize("edit", [fresh, rotate])
def test_the_result_means_what_was_asked(path: Path, tenant: str, edit: Edit) -> None:
    before = read_rules(path.read_bytes())
    edit_keys(path, tenant, edit)
    after = read_rules(path.read_bytes())
    digests = [key_of(entry).digest for entry in before.tenants[tenant].keys]
    assert [key_of(entry).digest for entry in after.tenants[tenant].keys] == [NEW, *digests]
    for name, rules in before.tenants.items():
        if name != tenant:
            assert after.tenants[name] == rules


def test_an_edit_that_changes_nothing_writes_the_same_bytes(path: Path) -> None:
    for tenant in ("acme", "globex", "initech", "wayne"):
        assert diff(path, tenant, lambda entries: entries) == []


def test_line_ends_stay_as_they_are(path: Path) -> None:
    path.write_bytes(RULES.replace("\n", "\r\n").encode())
    edit_keys(path, "acme", rotate)
    raw = path.read_bytes()
    assert raw.count(b"\n") == raw.count(b"\r\n") == RULES.count("\n") + 1


def unchanged(path: Path, tenant: str, edit: Edit, says: str) -> None:
    before, folder = path.read_bytes(), sorted(os.listdir(path.parent))
    with pytest.raises(TenantryError, match=says):
        edit_keys(path, tenant, edit)
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == folder


def test_an_edit_that_makes_the_document_invalid_writes_nothing(path: Path) -> None:
    """Invariant 9."""
    unchanged(path, "acme", lambda entries: [C, *entries], r"tenants\.globex\.keys\[0\]: the same key stands at")
    unchanged(
        path,
        "acme",
        lambda entries: ["tk_not-a-digest", *entries],
        r"tenants\.acme\.keys\[0\]: expected `str` matching",
    )
    unchanged(path, "acme", lambda entries: revoked(entries, "0" * 8), "names 0 of the tenant's keys")


def test_a_document_that_is_invalid_already_is_not_touched(path: Path) -> None:
    path.write_text(RULES.replace("version: 1", "version: 2"))
    unchanged(path, "acme", fresh, "version: invalid enum value 2")
    path.write_text(RULES.replace("beta: yes", "beta: yes\n    beta: yes"))
    unchanged(path, "acme", fresh, 'key "beta" stands at line')


def test_an_unknown_tenant_is_told_the_nearest(path: Path) -> None:
    unchanged(path, "acne", fresh, 'no tenant is called "acne"; did you mean "acme"?')
    path.unlink()
    with pytest.raises(RulesError, match="No such file"):
        edit_keys(path, "acme", fresh)


def test_what_cannot_be_spliced_is_left_to_a_person(path: Path) -> None:
    # two tenants that share one mapping
    path.write_text(RULES.replace("  hooli: {}\n  stark: {beta: true}", "  hooli: &h {beta: true}\n  stark: *h"))
    unchanged(path, "stark", fresh, r"tenants\.stark\.keys: cannot be edited without changing more; edit it by hand")
    # a comment between the dash and its key
    path.write_text(RULES.replace(f"- {A}", f"- # see - below\n        {A}"))
    unchanged(path, "acme", fresh, r"tenants\.acme\.keys: cannot be edited")
    # an edit of another kind: the order of keys
    path.write_text(RULES)
    unchanged(path, "acme", lambda entries: entries[::-1], r"tenants\.acme\.keys: cannot be edited")
    path.write_bytes(RULES.encode("utf-16"))
    unchanged(path, "acme", fresh, "the file is not UTF-8; convert it")


def test_the_file_keeps_its_mode_and_is_replaced_at_once(path: Path) -> None:
    path.chmod(0o640)
    inode = path.stat().st_ino
    edit_keys(path, "acme", fresh)
    assert oct(path.stat().st_mode)[-3:] == "640"
    assert path.stat().st_ino != inode  # a rename: whoever reads at this moment reads one or the other
    assert os.listdir(path.parent) == [path.name]


def test_a_document_is_written_to_another_file_when_it_is_valid(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    target = tmp_path / "copy.yaml"
    rewrite(path, target, lambda raw: raw.replace(b"beta: yes", b"beta: no"))
    assert target.read_text() == RULES.replace("beta: yes", "beta: no")
    assert path.read_text() == RULES
    assert oct(target.stat().st_mode)[-3:] == "640"  # as the source's, since there was none

    target.chmod(0o600)
    rewrite(path, target, bytes)
    assert (target.read_text(), oct(target.stat().st_mode)[-3:]) == (RULES, "600")

    with pytest.raises(RulesError, match="version: invalid enum value 2"):
        rewrite(path, target, lambda raw: raw.replace(b"version: 1", b"version: 2"))
    assert target.read_text() == RULES
    assert sorted(os.listdir(tmp_path)) == ["copy.yaml", "rules.yaml"]
