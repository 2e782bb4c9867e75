"""The page's part on the candidates: who got them over time, what the guard made of them, and the figures."""

from html import escape
from typing import Any

from demo.charts import NARROW, WIDE, Column, Curve, Lane, Point, Slice, both, curves, lanes
from demo.report_parts import Document, figure_path, legend, percent, rounded, section, table

LANE = 60
STABLE, CANDIDATE = "stable version", "candidate"
CURVE_CSS = {"reverted": "s1", "splitting": "s2"}


def candidates(document: Document) -> str:
    """Return the section; nothing for a play without a split."""
    played = split(document)
    if not played:
        return ""
    end_s = document["timeline"]["end_s"]
    bin_s = next(iter(played.values()))["bin_s"]
    mark = _mark(played)
    rows = [_lane(model, rollout) for model, rollout in played.items()]
    lines = [
        Curve(
            label=f"{model} {rollout['candidate']}",
            css=CURVE_CSS[rollout["expected_state"]],
            points=[
                Point(
                    at_s=point["at_s"],
                    value=point["suspicion"],
                    of=figure_path(("rollouts", model, "evidence", index, "suspicion")),
                )
                for index, point in enumerate(rollout["evidence"])
            ],
        )
        for model, rollout in played.items()
    ]
    over_time = [
        lanes(rows, series=(STABLE, CANDIDATE), bin_s=bin_s, end_s=end_s, mark=None, width=width, alike=False,
              bar_height=LANE, what="Requests over time to the models with a candidate, by version")
        for width in (WIDE, NARROW)
    ]  # fmt: skip
    doubt = [
        curves(lines, limit="a verdict", end_s=end_s, mark=mark, width=width,
               what="Evidence against each candidate over time")
        for width in (WIDE, NARROW)
    ]  # fmt: skip
    keys = "".join(
        f'<li><svg width="16" height="12" aria-hidden="true"><line class="{line.css}" x1="0" x2="16" y1="6" y2="6" '
        f'stroke-width="2.5"/></svg>{escape(line.label)}</li>'
        for line in lines
    )
    return section(
        "Two candidates: one keeps its share, one is taken back",
        "".join(_told(document, model, rollout) for model, rollout in played.items())
        + "Requests per half second, each a unit of its own:",
        legend((STABLE, CANDIDATE))
        + both(*over_time)
        + '<p class="quiet above">The guard\'s evidence against each candidate: its strongest doubt of any signal.</p>'
        + f'<ul class="legend">{keys}</ul>'
        + both(*doubt)
        + _by_tenant(document, played),
    )


def candidate_tiles(document: Document) -> list[tuple[str, str, str]]:
    """Return what stands at the head of the page: (what, figure, note)."""
    tiles = []
    for model, rollout in split(document).items():
        if rollout["expected_state"] == "splitting":
            share = document.figure("rollouts", model, "candidate_share", show=percent)
            units = document.figure("rollouts", model, "units")
            tiles.append(
                ("Healthy candidate's share", share, f"of {units} units; the rules say {rollout['percent']:g} %")
            )
        elif rollout["verdict"] is not None:
            seconds = document.figure("rollouts", model, "verdict", "seconds_after_start", show=_tenths, unit=" s")
            later = document.figure("rollouts", model, "after_verdict")
            tiles.append(("Slow candidate taken back after", seconds, f"by the guard; {later} requests got it later"))
    return tiles


def split(document: Document) -> dict[str, Any]:
    """Return the rollouts in which the split had a say."""
    return {model: rollout for model, rollout in document["rollouts"].items() if rollout["percent"]}


def _mark(played: dict[str, Any]) -> tuple[float, str] | None:
    for rollout in played.values():
        if (verdict := rollout["verdict"]) is not None:
            return verdict["at_s"], f"{rollout['candidate']} taken back"
    return None


def _lane(model: str, rollout: dict[str, Any]) -> Lane:
    names = ((CANDIDATE, rollout["candidate"]), (STABLE, rollout["stable"]))  # the rarer one at the bottom
    verdict = rollout["verdict"]
    return Lane(
        label=f"{model} {rollout['candidate']}",
        note=f"{rollout['percent']:g} % of units" + ("" if verdict is None else ", until taken back"),
        mark_s=None if verdict is None else verdict["at_s"],
        columns=[
            Column(
                at_s=slot["at_s"],
                slices=[
                    Slice(
                        series=name,
                        value=slot["versions"][version],
                        of=figure_path(("rollouts", model, "timeline", index, "versions", version)),
                    )
                    for name, version in names
                    if version in slot["versions"]
                ],
            )
            for index, slot in enumerate(rollout["timeline"])
        ],
    )


def _told(document: Document, model: str, rollout: dict[str, Any]) -> str:
    def figure(*path: str, show: Any = None, unit: str = "") -> str:
        return document.figure("rollouts", model, *path, show=show, unit=unit)

    text = f"<b>{escape(model)} {escape(rollout['candidate'])}</b>, {escape(rollout['story'])}: "
    text += f"the split gave it {figure('candidate_units')} of {figure('units')} units "
    text += f"({figure('candidate_share', show=percent)}). "
    if rollout["mirror_percent"]:
        text += f"It also answered {figure('mirrored')} mirrored copies, to nobody and at the operator's cost. "
    if (verdict := rollout["verdict"]) is not None:
        text += (
            f"After {figure('verdict', 'seconds_after_start', show=_tenths)} s and "
            f"{figure('verdict', 'units_to_revert')} units judged by {escape(verdict['signal'])} (the first are its "
            f"warm-up) the {escape(verdict['who'])} took it back, for the whole {escape(verdict['scope'])}: "
            f"log e-value {figure('verdict', 'log_e', show=_tenths)} at a threshold of "
            f"{figure('verdict', 'log_threshold', show=_tenths)}. "
        )
    return f'<span class="told">{text}</span>'


def _by_tenant(document: Document, played: dict[str, Any]) -> str:
    names = list(dict.fromkeys(name for rollout in played.values() for name in rollout["tenants"]))
    columns = ["tenant", "rule"]
    for model, rollout in played.items():
        columns += [f"#{model}: requests", f"#to {rollout['candidate']}"]
    rows = []
    for name in names:
        sent = [(model, rollout["tenants"].get(name)) for model, rollout in played.items()]
        pinned = any(tenant["pinned"] for _, tenant in sent if tenant is not None)
        row = [escape(name), "pinned: stable" if pinned else "split"]
        for model, tenant in sent:
            row += [
                "-" if tenant is None else document.figure("rollouts", model, "tenants", name, key)
                for key in ("requests", "candidate_requests")
            ]
        rows.append(row)
    return f'<div class="above">{table(columns, rows)}</div>' + _answers(document, played)


def _answers(document: Document, played: dict[str, Any]) -> str:
    parts = []
    for model, rollout in played.items():
        for kind in ("stable", "candidate"):
            version = rollout[kind]
            median = document.figure("rollouts", model, "answer_ms", version, "p50", show=rounded, unit=" ms")
            parts.append(f"{escape(model)} {escape(version)} {median}")
    said = f"Median time of a whole answer while the split drew, by the clients' clocks: {', '.join(parts)}. "
    said += "On a busy engine a request waits for the step that runs, so the share alone makes a difference."
    return f'<p class="quiet above">{said}</p>'


def _tenths(value: float) -> str:
    return f"{value:.1f}"
