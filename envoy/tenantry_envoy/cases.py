"""The checked-in examples: a file of rules and options in, the files that Envoy reads out.

`cases/NAME.yaml` holds a rules document under `rules` and EnvoyOptions under `options`;
`generated/NAME.bootstrap.yaml` and `generated/NAME.clusters.yaml` hold what comes of it.
"""

from pathlib import Path

import msgspec
import yaml
from tenantry.core.rules import Rules, parse

from tenantry_envoy.bootstrap import bootstrap
from tenantry_envoy.clusters import clusters
from tenantry_envoy.options import EnvoyOptions


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One example."""

    name: str
    rules: Rules
    options: EnvoyOptions


def load(path: Path) -> Case:
    """Read a case; raise RulesError or msgspec.ValidationError for a bad one."""
    document = yaml.safe_load(path.read_text())
    return Case(
        name=path.stem,
        rules=parse(document["rules"]),
        options=msgspec.convert(document["options"], EnvoyOptions),
    )


def render(case: Case) -> dict[str, str]:
    """Return the text of each generated file by its name."""
    parts = {"bootstrap": bootstrap(case.rules, case.options), "clusters": clusters(case.rules)}
    return {f"{case.name}.{kind}.yaml": _text(case.name, data) for kind, data in parts.items()}


def _text(name: str, data: object) -> str:
    head = f"# From cases/{name}.yaml by `python -m tenantry_envoy`. Do not edit.\n"
    return head + yaml.safe_dump(data, sort_keys=False, width=120)
