"""A dashboard's JSON as Grafana reads it: its queries, with the variables put in as for somebody who opens it."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

SCRAPE_S = 1
"""The scrape interval that the data source is told of; Grafana's default of 15 s would be for one of that."""

LabelValues = Callable[[str, str], list[str]]
"""(selector, or empty for all series; label) -> values."""


class PanelQuery(Struct, frozen=True, kw_only=True):
    """One query: of a panel, or of an annotation (no panel). `instant` asks for now alone."""

    dashboard: str
    panel: str
    ref: str
    expr: str
    instant: bool = False
    exemplar: bool = False

    @property
    def name(self) -> str:
        """Name it in a test's id and in the list of those that may be empty."""
        return f"{self.dashboard} / {self.panel} / {self.ref}"


class Shown(Struct, frozen=True, kw_only=True):
    """The time that is shown, in Unix seconds."""

    begin_s: float
    end_s: float

    def variables(self) -> dict[str, str]:
        """Return Grafana's own: one point a second, a rate over four scrapes at least."""
        seconds = max(1, round(self.end_s - self.begin_s))
        return {
            "__interval": "1s", "__interval_ms": "1000", "__rate_interval": f"{4 * SCRAPE_S}s",
            "__range": f"{seconds}s", "__range_s": str(seconds), "__range_ms": str(seconds * 1000),
        }  # fmt: skip


def dashboards(folder: Path) -> list[dict[str, Any]]:
    """Return the dashboards of a folder, by file name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the panels that show something, those in rows too."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels") or ()
        elif panel["type"] != "text":
            yield panel


def queries(dashboard: Mapping[str, Any]) -> Iterator[PanelQuery]:
    """Yield the queries of all panels and annotations."""
    uid = dashboard["uid"]
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield PanelQuery(
                dashboard=uid, panel=panel["title"], ref=target["refId"], expr=target["expr"],
                instant=bool(target.get("instant")), exemplar=bool(target.get("exemplar")),
            )  # fmt: skip
    for annotation in (dashboard.get("annotations") or {}).get("list") or ():
        if annotation.get("expr"):
            yield PanelQuery(dashboard=uid, panel="annotation", ref=annotation["name"], expr=annotation["expr"])


def variables(dashboard: Mapping[str, Any], label_values: LabelValues) -> dict[str, tuple[str, list[str]]]:
    """Return by variable what is put in for it when the dashboard opens, and what there is to choose from.

    Raise ValueError about a variable that this does not know how to resolve.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for variable in dashboard["templating"]["list"]:
        name, kind = variable["name"], variable["type"]
        put_in = {known: value for known, (value, _) in found.items()}
        if kind == "datasource":
            found[name] = ("", [variable["query"]])
        elif kind in {"constant", "custom", "interval", "textbox"}:
            values = [value.strip() for value in str(variable["query"]).split(",")]
            found[name] = (values[0], values)
        elif kind == "query":
            values = _resolved(variable, put_in, label_values)
            found[name] = (_put_in(variable, values), values)
        else:
            raise ValueError(f"the variable {name} of {dashboard['uid']} has the type {kind}")
    return found


def interpolated(expr: str, values: Mapping[str, str]) -> str:
    """Put the variables in; raise ValueError about one that nobody knows."""

    def value(match: re.Match[str]) -> str:
        name = match["short"] or match["long"]
        if name not in values:
            raise ValueError(f"the variable {name} is not known in {expr!r}")
        return values[name]

    return re.sub(r"\$(?P<short>\w+)|\$\{(?P<long>\w+)(?::\w+)?\}", value, expr)


def _resolved(variable: Mapping[str, Any], put_in: Mapping[str, str], label_values: LabelValues) -> list[str]:
    query = variable["query"]
    text = query if isinstance(query, str) else query["query"]
    match = re.fullmatch(r"label_values\((?:(?P<selector>.*),)?\s*(?P<label>\w+)\s*\)", text, re.DOTALL)
    if match is None:
        raise ValueError(f"the variable {variable['name']} asks for {text!r}, not for label_values")
    values = label_values(interpolated((match["selector"] or "").strip(), put_in), match["label"])
    shown = re.compile(variable.get("regex") or "")
    return [value for value in values if shown.search(value)]


def _put_in(variable: Mapping[str, Any], values: list[str]) -> str:
    """Return All where the dashboard opens with it, else the first value; several are alternatives of a pattern."""
    if variable.get("includeAll"):
        # A backslash of the pattern is two in a string of PromQL.
        escaped = [re.sub(r"[\\^$*+?.()|{}\[\]]", r"\\\\\g<0>", value) for value in values]
        return str(variable.get("allValue") or f"({'|'.join(escaped)})")
    return values[0] if values else ""
