"""What the chart renders is what was reviewed."""

import pytest
import yaml

from helm.golden import FOLDER, NAMES, rendered


def test_there_is_a_pair_for_each_way_to_run_it() -> None:
    assert {"plain", "own-pods", "rules-outside"} <= set(NAMES)
    assert {path.name for path in FOLDER.glob("*.yaml")} == {
        file for name in NAMES for file in (f"{name}.values.yaml", f"{name}.yaml")
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_is_as_it_was_reviewed(name: str) -> None:
    """If the change is meant: `make golden`, and read the diff."""
    assert rendered(name) == (FOLDER / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_helm_3_makes_the_same_of_it(name: str) -> None:
    """Only the order of kinds differs between the two."""
    ours, theirs = (
        sorted(yaml.load_all(text, yaml.CSafeLoader), key=str)
        for text in (rendered(name, "helm3"), (FOLDER / f"{name}.yaml").read_text())
    )
    assert ours == theirs
