"""The chart's README: what each value means, from the comments in values.yaml."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

HEAD = """# Chart `tenantry`

Generated from the comments in values.yaml (`make stubs`). How to install it:
[docs/install-with-helm.md](../../docs/install-with-helm.md).

| value | default | what |
|---|---|---|
"""

_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):")


def readme(values: str) -> str:
    """Return the README for the text of values.yaml."""
    defaults = yaml.safe_load(values)
    return HEAD + "".join(
        f"| `{path}` | {_shown(_at(defaults, path))} | {what} |\n" for path, what in _commented(values)
    )


def _commented(values: str) -> Iterator[tuple[str, str]]:
    """Yield the path of each key that a comment stands before, and the comment."""
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in values.splitlines():
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
        elif (key := _KEY.match(line)) is not None:
            indent = len(key[1])
            path = [each for each in path if each[0] < indent] + [(indent, key[2])]
            if comment:
                yield ".".join(name for _, name in path), " ".join(comment).replace("|", "\\|")
            comment = []
        else:
            comment = []


def unexplained(values: str) -> list[str]:
    """Return the paths of values that no comment explains, neither their own nor one of what they are in."""
    explained = [path for path, _ in _commented(values)]
    return [
        path
        for path in _paths(yaml.safe_load(values))
        if not any(f"{path}.".startswith(f"{each}.") for each in explained)
    ]


def _paths(value: Any, path: str = "") -> Iterator[str]:
    if not isinstance(value, dict) or not value:
        yield path
        return
    for key, member in value.items():
        yield from _paths(member, f"{path}.{key}" if path else key)


def _at(defaults: Any, path: str) -> Any:
    for name in path.split("."):
        defaults = defaults[name]
    return defaults


def _shown(value: Any) -> str:
    if value == "":
        return ""
    return f"`{json.dumps(value)}`" if not isinstance(value, dict) or len(json.dumps(value)) < 80 else "see values.yaml"
