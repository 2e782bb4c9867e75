"""A document split is the document merged again; a name in two parts is never merged."""

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tenantry.adapters.rules_file import load
from tenantry.adapters.rules_split import write_split
from tenantry.core.errors import RulesError
from tenantry.core.rules import parse
from tenantry.core.rules_parts import MERGED, Part, merge
from tenantry_testing.documents import document

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
ENTRIES = st.fixed_dictionaries(
    {"tier": st.sampled_from(["gold", "bronze"])},
    optional={
        "beta": st.booleans(),
        "keys": st.lists(st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True), max_size=3, unique=True),
        "pins": st.just({"chat-8b": "1.4.0"}),
        "quota": st.just({"computeUnitsPerMinute": 3, "alertAt": [0.1, 1]}),
    },
)
TENANTS = st.dictionaries(NAMES, ENTRIES, max_size=30)


def without_double_keys(tenants: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    seen: set[object] = set()
    for entry in tenants.values():
        keys = entry.get("keys", [])
        assert isinstance(keys, list)
        entry["keys"] = [key for key in keys if key not in seen]
        seen.update(keys)
    return tenants


@settings(deadline=None)
@given(tenants=TENANTS.map(without_double_keys), max_bytes=st.integers(800, 3_000))
def test_split_and_merged_it_is_the_same(tenants: dict[str, object], max_bytes: int) -> None:
    """Names that YAML reads as numbers, booleans or dates among them."""
    with tempfile.TemporaryDirectory() as scratch:
        source, parts = Path(scratch, "rules.yaml"), Path(scratch, "parts")
        source.write_text(yaml.safe_dump(document(tenants=tenants), sort_keys=False))
        sizes = write_split(source, parts, max_bytes)
        assert max(sizes.values()) <= max_bytes
        assert {path.name: path.stat().st_size for path in parts.iterdir()} == sizes
        again = load(parts)
        assert again == parse(document(tenants=tenants))
        assert list(again.tenants) == list(tenants)


@given(
    assigned=st.lists(st.tuples(st.sampled_from(MERGED), NAMES, st.integers(0, 3)), min_size=1),
)
def test_each_name_comes_from_one_part(assigned: list[tuple[str, str, int]]) -> None:
    documents: list[dict[str, dict[str, object]]] = [{"tiers": {f"own-{number}": 0}} for number in range(4)]
    for section, name, part in assigned:
        documents[part].setdefault(section, {})[name] = part
    parts = [Part(name=f"{number}.yaml", document=each) for number, each in enumerate(documents)]
    owners: dict[tuple[str, str], set[int]] = {}
    for section, name, part in assigned:
        owners.setdefault((section, name), set()).add(part)
    twice = sum(len(found) - 1 for found in owners.values())
    if not twice:
        merged = merge(parts)
        assert all(merged.document[section][name] == part for section, name, part in assigned)  # type: ignore[index]
        assert all(merged.origins[section, name] == f"{part}.yaml" for section, name, part in assigned)
        return
    with pytest.raises(RulesError) as caught:
        merge(parts)
    assert len(caught.value.problems) == min(twice, 51)
