"""Rules in a folder of parts: merged strictly, read whole around a kubelet's swap, split and edited by the commands."""

import os
from pathlib import Path

import pytest
import yaml
from tenantry.adapters import rules_file
from tenantry.adapters.rules_edit import edit_keys
from tenantry.adapters.rules_file import Source, load, read_parts
from tenantry.adapters.rules_split import write_split
from tenantry.cli import app
from tenantry.core.errors import RulesError, TenantryError
from tenantry.core.rules import parse
from tenantry.core.rules_parts import MAX_PARTS, Part, merge
from tenantry_testing.documents import document

NEW = "sha256:" + "7" * 64


def folder_of(path: Path, **parts: object) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in parts.items():
        (path / f"{name}.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def parted() -> dict[str, dict[str, object]]:
    whole = document()
    tenants = whole.pop("tenants")
    one, *others = tenants
    return {
        "rules": whole | {"tenants": {one: tenants[one]}},
        "tenants_b": {"tenants": {name: tenants[name] for name in others}},
    }


def refused(folder: Path) -> str:
    with pytest.raises(RulesError) as caught:
        load(folder)
    return str(caught.value)


def test_a_folder_is_one_document(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "rules", **parted())
    (folder / ".hidden.yaml").write_text("{")  # an editor's
    (folder / "rules.yaml~").write_text("{")
    (folder / "notes.txt").write_text("{")
    assert load(folder) == parse(document())
    assert list(load(folder).tenants) == ["acme", "globex", "initech"]


def test_models_stores_and_tiers_merge_too(tmp_path: Path) -> None:
    whole = document()
    more = {
        "tiers": {"silver": {}},
        "models": {"rerank": {"stable": "1", "versions": {"1": {"endpoints": ["h:1"]}}}},
        "stores": {"docs": {"kind": "milvus", "endpoints": ["h:1"], "isolation": "database"}},
    }
    rules = load(folder_of(tmp_path / "rules", a=whole, b=more))
    assert (list(rules.tiers), list(rules.models), list(rules.stores)) == (
        ["bronze", "gold", "silver"], ["chat-8b", "embed", "rerank"], ["docs"],
    )  # fmt: skip


def test_what_stands_twice_is_named_with_both_files(tmp_path: Path) -> None:
    parts = parted()
    parts["tenants_b"] |= {"version": 1, "tenants": {"acme": {"tier": "gold"}}}
    first, second = refused(folder_of(tmp_path / "rules", **parts)).splitlines()
    assert first == "tenants_b.yaml: tenants.acme: it stands in rules.yaml already; remove it from one of them"
    assert second.startswith("tenants_b.yaml: version: it stands in rules.yaml already; only tiers, models, tenants,")


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("", "tenants_b.yaml: a part is a mapping with at least one key; remove the file, or write"),
        ("- a", "tenants_b.yaml: a part is a mapping"),
        ("tenants:", "tenants_b.yaml: tenants: expected a mapping of names"),
        ("{", "tenants_b.yaml: not valid YAML"),
        ("tenants: {x: {tire: gold}}", 'tenants_b.yaml: tenants.x.tire: unknown key; did you mean "tier"?'),
        ("tenants: {a.b: {tier: golf}}", 'tenants_b.yaml: tenants["a.b"].tier: no tier is called "golf"'),
        ("tenant: {}", "tenants_b.yaml: tenant: unknown key"),
        (f"tenants: {{x: {{tier: gold, keys: [{NEW}, {NEW}]}}}}", "tenants_b.yaml: tenants.x.keys[1]: the same key"),
    ],
)
def test_a_problem_names_its_file(tmp_path: Path, part: str, says: str) -> None:
    assert refused(folder_of(tmp_path / "rules", **parted() | {"tenants_b": part})).startswith(says)


def test_a_part_that_is_alone_is_named_too(tmp_path: Path) -> None:
    assert refused(folder_of(tmp_path / "rules", only="models: {}")).splitlines() == [
        "only.yaml: version: missing; it has no default",
        "only.yaml: tiers: missing; it has no default",
    ]


def test_what_is_missing_is_in_no_part(tmp_path: Path) -> None:
    parts = parted()
    del parts["rules"]["version"]
    assert refused(folder_of(tmp_path / "rules", **parts)) == "version: missing; it has no default"


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "rules")
    assert "0 parts of a rules document; 1 to 256 files that end with .yaml, .yml, .json" in refused(folder)
    for number in range(MAX_PARTS + 1):
        (folder / f"{number}.yaml").write_text("x: 1")
    assert f"{MAX_PARTS + 1} parts" in refused(folder)
    monkeypatch.setattr(rules_file, "MAX_RULES_BYTES", 100)
    assert "the parts are larger than 100 bytes" in refused(folder_of(tmp_path / "other", a="a" * 60, b="b" * 60))


def test_a_part_that_cannot_be_read_is_not_left_out(tmp_path: Path) -> None:
    """Its tenants would be gone."""
    folder = folder_of(tmp_path / "rules", **parted())
    (folder / "gone.yaml").symlink_to("nowhere")
    assert "gone.yaml: No such file or directory" in refused(folder)
    (folder / "gone.yaml").unlink()
    (folder / "folder.yaml").mkdir()
    assert "folder.yaml: Is a directory" in refused(folder)


def mounted(volume: Path, name: str, **parts: object) -> None:
    """As a kubelet does it: the new files beside the old, then the symlink swapped."""
    folder_of(volume)
    folder_of(volume / name, **parts)
    fresh = volume / "..data_tmp"
    fresh.symlink_to(name)
    fresh.replace(volume / "..data")
    for part in parts:
        link = volume / f"{part}.yaml"
        if not link.is_symlink():
            link.symlink_to(f"..data/{part}.yaml")


def test_a_volume_that_is_swapped_meanwhile_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the old folder or from the new one, never a part of either."""
    mounted(tmp_path / "v", "..1", a="version: 1", b="one: 1")
    real, swaps = rules_file.read_file, iter(["..2"])

    def read_and_swap(path: Path) -> bytes:
        raw = real(path)
        for name in swaps:
            mounted(tmp_path / "v", name, a="version: 2", b="two: 2")
            (path.parent / "b.yaml").unlink()  # the kubelet removes the old folder
        return raw

    monkeypatch.setattr(rules_file, "read_file", read_and_swap)
    assert read_parts(tmp_path / "v") == (("a.yaml", b"version: 2"), ("b.yaml", b"two: 2"))


def test_a_volume_that_never_stands_still_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(tmp_path / "v", "..0", a="version: 1")
    real = rules_file.read_file

    def read_and_swap(path: Path) -> bytes:
        raw = real(path)
        mounted(tmp_path / "v", f"..{int(path.parent.name[2:]) + 1}", a="version: 1")
        return raw

    monkeypatch.setattr(rules_file, "read_file", read_and_swap)
    with pytest.raises(RulesError, match="it changes all the time"):
        read_parts(tmp_path / "v")


def test_the_digest_tells_parts_apart(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "rules", a="x: 1", b="y: 1")
    source = Source(folder, tmp_path)
    seen = {source.digest(read_parts(folder), {})}
    (folder / "b.yaml").rename(folder / "c.yaml")
    seen.add(source.digest(read_parts(folder), {}))
    seen.add(source.digest((("a.yaml", b"x: 1"),), {}))
    seen.add(source.digest((("a.yaml", b"x: 1"), ("c.yaml", b"y: 1")), {"c.yaml": b"y: 1"}))
    assert len(seen) == 4


def test_what_concerns_a_folder_and_a_file(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "rules", rules=document())
    of_folder, of_file = Source(folder, tmp_path), Source(folder / "rules.yaml", tmp_path)
    assert of_folder.watched() == of_file.watched() == folder.resolve()
    for name, (by_folder, by_file) in {
        "rules.yaml": (True, True),
        "tenants-002.yaml": (True, False),
        "..data": (True, True),
        ".rules.yaml.swp": (False, False),
        "rules.yaml~": (False, False),
        "outcomes.jsonl": (False, False),
    }.items():
        assert (of_folder.concerns_rules(folder / name), of_file.concerns_rules(folder / name)) == (by_folder, by_file)


def test_a_document_is_split_and_reads_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tenants = {f"tenant-{number}": {"tier": "gold"} for number in range(100)}
    source = tmp_path / "rules.yaml"
    source.write_text("# a comment\n" + yaml.safe_dump(document(tenants=tenants), sort_keys=False))
    words = ["rules", "split", str(source), "--out", str(tmp_path / "parts"), "--max-bytes", "1500"]
    app(words, result_action="return_value")
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0].rpartition("/")[2] for line in shown] == [
        "rules.yaml", "tenants-001.yaml", "tenants-002.yaml", "tenants-003.yaml",
    ]  # fmt: skip
    assert all(path.stat().st_size <= 1500 for path in (tmp_path / "parts").iterdir())
    assert load(tmp_path / "parts") == load(source)
    assert list(load(tmp_path / "parts").tenants) == list(tenants)
    with pytest.raises(TenantryError, match="is there already"):
        app(words, result_action="return_value")


def test_what_cannot_be_split_is_told_and_nothing_written(tmp_path: Path) -> None:
    source = tmp_path / "rules.yaml"
    source.write_text(yaml.safe_dump(document({"tenants.acme.keys": [NEW.replace("7", f"{n:x}") for n in range(16)]})))
    with pytest.raises(TenantryError, match=r"tenants\.acme takes 1267 bytes by itself, more than a part of 1000"):
        write_split(source, tmp_path / "parts", 1_000)
    source.write_text(yaml.safe_dump(document(tenants={})))
    with pytest.raises(TenantryError, match="all but the tenants takes"):
        write_split(source, tmp_path / "parts", 100)
    assert os.listdir(tmp_path) == ["rules.yaml"]


def test_a_key_goes_into_the_part_of_its_tenant(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "rules", **parted())
    before = (folder / "rules.yaml").read_bytes()
    edit_keys(folder, "globex", lambda entries: [NEW, *entries])
    assert (folder / "rules.yaml").read_bytes() == before
    assert load(folder).tenants["globex"].keys[0] == NEW
    assert sorted(os.listdir(folder)) == ["rules.yaml", "tenants_b.yaml"]
    with pytest.raises(RulesError, match=r"tenants_b\.yaml: tenants\.globex\.keys\[0\]: the same key stands at"):
        edit_keys(folder, "acme", lambda entries: [NEW, *entries])
    with pytest.raises(RulesError, match='no tenant is called "globx"; did you mean "globex"'):
        edit_keys(folder, "globx", lambda entries: entries)


def test_a_mounted_volume_is_not_edited(tmp_path: Path) -> None:
    mounted(tmp_path / "v", "..1", **parted())
    with pytest.raises(RulesError, match="is a mounted volume's; edit the ConfigMap or Secret"):
        edit_keys(tmp_path / "v", "globex", lambda entries: [NEW, *entries])


def test_a_folder_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "rules", **parted())
    app(["check", str(folder)], result_action="return_value")
    assert f"{folder}: ok. 2 tiers, 2 models with 3 versions, 3 tenants with 3 keys" in capsys.readouterr().out


def test_one_part_is_the_document() -> None:
    assert merge([Part(name="", document=[1])]).document == [1]
