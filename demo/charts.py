"""Charts as SVG text: no library, no script, colours by CSS class.

Each mark says what it stands for: `data-of` is the path of its figure in report.json, `data-value`
that figure, and a <title> tells it to a pointer. A chart is drawn once for wide and once for narrow
screens, since text in a scaled drawing would shrink with it.
"""

from collections.abc import Sequence
from html import escape

from msgspec import Struct

WIDE, NARROW = 880, 340

_LANE_LABEL, _LANE_BARS, _LANE_GAP, _LANE_TOP, _AXIS = 20, 40, 16, 22, 22
_CURVES = 90
_ABOVE_LIMIT = 1.12
_ROW, _BAR = 46, 14
_WHOLE = 28
_MIN_BAR = 2.0


class Slice(Struct, frozen=True, kw_only=True):
    """A part of a column: how much, of which series, and the path of the figure."""

    series: str
    value: int
    of: str


class Column(Struct, frozen=True, kw_only=True):
    """What stands at one moment: its parts from the bottom up."""

    at_s: float
    slices: Sequence[Slice]


class Lane(Struct, frozen=True, kw_only=True):
    """One row of columns over time; `mark_s` is a moment of this row alone."""

    label: str
    note: str
    columns: Sequence[Column]
    mark_s: float | None = None


class Point(Struct, frozen=True, kw_only=True):
    """A moment on a curve, and the path of its figure."""

    at_s: float
    value: float
    of: str


class Curve(Struct, frozen=True, kw_only=True):
    """One line over time. `css` is its colour."""

    label: str
    points: Sequence[Point]
    css: str


class Bar(Struct, frozen=True, kw_only=True):
    """A horizontal bar: its length, what is written beside it, and optionally a mark further out."""

    label: str
    value: float
    text: str
    of: str
    css: str
    tail: float | None = None
    tail_of: str = ""


class Part(Struct, frozen=True, kw_only=True):
    """A part of a whole: how much, what a pointer is told, the path of its figure, and its colour."""

    value: float
    title: str
    of: str
    css: str


def both(draw: str, narrow: str) -> str:
    """Return the two drawings, of which the page shows one."""
    return f'<div class="wide">{draw}</div><div class="narrow">{narrow}</div>'


def lanes(
    rows: Sequence[Lane],
    *,
    series: Sequence[str],
    bin_s: float,
    end_s: float,
    mark: tuple[float, str] | None,
    width: int,
    what: str = "Requests over time, by tenant, coloured by the version that served them",
    alike: bool = True,
    bar_height: float = _LANE_BARS,
) -> str:
    """Draw lanes of stacked columns on one time axis; `mark` is a moment and its name.

    `alike`: one scale for all; else each lane's tallest column fills it.
    """
    heights = [max((sum(part.value for part in column.slices) for column in row.columns), default=1) for row in rows]
    if alike:
        heights = [max(heights, default=1)] * len(rows)
    scale = _Scale(series=series, bin_s=bin_s, x=width / max(end_s, bin_s), width=width)
    pitch = _LANE_LABEL + bar_height + _LANE_GAP
    above = _LANE_TOP if mark is not None or alike else 0
    tops = [above + pitch * index for index in range(len(rows))]
    bottom = above + pitch * len(rows) - _LANE_GAP
    drawn = [
        _lane(row, top + _LANE_LABEL + bar_height, scale, bar_height / height)
        for row, top, height in zip(rows, tops, heights, strict=True)
    ]
    if mark is not None:
        drawn.append(_moment(mark, scale, bottom))
    # Words last: what they stand on must not strike them through.
    drawn += [_lane_label(row, top) for row, top in zip(rows, tops, strict=True)]
    drawn.append(_time_axis(end_s, scale, bottom))
    for row, top in zip(rows, tops, strict=True):
        if row.mark_s is not None:
            x, base = row.mark_s * scale.x, top + _LANE_LABEL + bar_height
            drawn.append(f'<line class="moment" x1="{x:.1f}" x2="{x:.1f}" y1="{top + _LANE_LABEL}" y2="{base}"/>')
    return _svg("".join(drawn), width, bottom + _AXIS, what)


def curves(
    rows: Sequence[Curve], *, limit: str, end_s: float, mark: tuple[float, str] | None, width: int, what: str
) -> str:
    """Draw lines on one time axis, from 0 to a little above 1, the limit, which has a name; what is beyond is cut."""
    scale = _Scale(series=(), bin_s=0.0, x=width / max(end_s, 1.0), width=width)
    base = _LANE_TOP + _CURVES
    y = _CURVES / _ABOVE_LIMIT
    drawn = [f'<line class="base" x1="0" x2="{width}" y1="{base}" y2="{base}"/>']
    if mark is not None:
        drawn.append(_moment(mark, scale, base))
    drawn.append(f'<line class="limit" x1="0" x2="{width}" y1="{base - y:.1f}" y2="{base - y:.1f}"/>')
    for row in rows:
        places = [(point.at_s * scale.x, base - min(point.value, _ABOVE_LIMIT) * y) for point in row.points]
        drawn.append(f'<polyline class="{row.css}" points="{" ".join(f"{px:.1f},{py:.1f}" for px, py in places)}"/>')
        drawn += [
            f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="4" {_data(point.of, point.value)}>'
            f"<title>{escape(f'{row.label}, second {point.at_s:g}: {point.value:g}')}</title></circle>"
            for point, (px, py) in zip(row.points, places, strict=True)
        ]
    drawn.append(f'<text class="name" x="0" y="{base - y + 16:.1f}">{escape(limit)}</text>')
    drawn.append(_time_axis(end_s, scale, base))
    return _svg("".join(drawn), width, base + _AXIS, what)


def bars(rows: Sequence[Bar], *, width: int, what: str) -> str:
    """Draw horizontal bars from zero on one scale, each with its label above and its figure beside it."""
    longest = max((max(row.value, row.tail or 0.0) for row in rows), default=0.0) or 1.0
    drawn = [_bar(row, index * _ROW, (width - 8) / longest, width) for index, row in enumerate(rows)]
    return _svg("".join(drawn), width, _ROW * len(rows), what)


def whole(parts: Sequence[Part], *, width: int, what: str) -> str:
    """Draw one bar of parts, as long as the drawing is wide; a part of nothing is not drawn."""
    scale = width / (sum(part.value for part in parts) or 1.0)
    drawn, x = [], 0.0
    for part in parts:
        if part.value > 0:
            drawn.append(
                f'<rect class="{part.css}" x="{x:.1f}" y="0" width="{part.value * scale:.1f}" height="{_WHOLE}" '
                f"{_data(part.of, part.value)}><title>{escape(part.title)}</title></rect>"
            )
            x += part.value * scale
    return _svg("".join(drawn), width, _WHOLE, what)


class _Scale(Struct, frozen=True, kw_only=True):
    """Pixels per second, and which series has which colour."""

    series: Sequence[str]
    bin_s: float
    x: float
    width: int


def _lane(row: Lane, base: float, scale: _Scale, y: float) -> str:
    drawn = [f'<line class="base" x1="0" x2="{scale.width}" y1="{base}" y2="{base}"/>']
    for column in row.columns:
        below = 0
        for part in column.slices:
            below += part.value
            title = f"{row.label}, second {column.at_s:g}: {part.value} by {part.series}"
            drawn.append(
                f'<rect class="v{scale.series.index(part.series)}" x="{column.at_s * scale.x:.1f}" '
                f'y="{base - below * y:.1f}" width="{max(scale.bin_s * scale.x - 1, 1):.1f}" '
                f'height="{part.value * y:.1f}" {_data(part.of, part.value)}>'
                f"<title>{escape(title)}</title></rect>"
            )
    return "".join(drawn)


def _lane_label(row: Lane, top: float) -> str:
    return (
        f'<text class="name" x="0" y="{top + 13}">{escape(row.label)}'
        f'<tspan class="quiet" dx="8">{escape(row.note)}</tspan></text>'
    )


def _time_axis(end_s: float, scale: _Scale, bottom: float) -> str:
    ticks = []
    for second in range(0, int(end_s) + 1, 10 if end_s > 20 else 5):
        x = second * scale.x
        anchor = "start" if second == 0 else "end" if x > scale.width - 12 else "middle"
        ticks.append(f'<text class="quiet" x="{x:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{second} s</text>')
    return "".join(ticks)


def _moment(mark: tuple[float, str], scale: _Scale, bottom: float) -> str:
    x = mark[0] * scale.x
    # Beside the line on the side that has more room.
    anchor, shift = ("start", 6) if x < scale.width / 2 else ("end", -6)
    return (
        f'<line class="moment" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom}"/>'
        f'<text class="name" x="{x + shift:.1f}" y="13" text-anchor="{anchor}">{escape(mark[1])}</text>'
    )


def _bar(row: Bar, top: float, scale: float, width: float) -> str:
    y, middle, end = top + 20, top + 20 + _BAR / 2, row.value * scale
    label = f'<text class="name" x="0" y="{top + 13}">{escape(row.label)}</text>'
    text = f'<text class="figure" x="{width}" y="{top + 13}" text-anchor="end">{escape(row.text)}</text>'
    tail = ""
    if row.tail is not None:
        far = row.tail * scale
        tail = (
            f'<line class="tail" x1="{end:.1f}" x2="{far:.1f}" y1="{middle}" y2="{middle}" '
            f"{_data(row.tail_of, row.tail)}/>"
            f'<line class="tail" x1="{far:.1f}" x2="{far:.1f}" y1="{y + 2}" y2="{y + _BAR - 2}"/>'
        )
    return (
        f'{label}{text}{tail}<rect class="{row.css}" x="0" y="{y}" width="{max(end, _MIN_BAR):.1f}" height="{_BAR}" '
        f'rx="2" {_data(row.of, row.value)}><title>{escape(f"{row.label}: {row.text}")}</title></rect>'
    )


def _data(of: str, value: float) -> str:
    return f'data-of="{escape(of)}" data-value="{value!r}"'


def _svg(inner: str, width: float, height: float, what: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(what)}">{inner}</svg>'
    )
