"""What the page is made of: figures looked up in report.json's own content, sections, tables, legends."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any


class Document:
    """report.json's content, looked up by path."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.versions: list[str] = list(content["model_versions"])

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def figure(self, *path: str | int, show: Callable[[float], str] | None = None, unit: str = "") -> str:
        """Show the number at a path, with its unit; a dash where there is none. Money is text, and stays as it is."""
        value = self.value(*path)
        if value is None:
            return "-"
        exact, shown = (value, value) if isinstance(value, str) else (repr(value), (show or plain)(value))
        return f'<data data-of="{figure_path(path)}" value="{escape(exact)}">{escape(shown)}{unit}</data>'

    def value(self, *path: str | int) -> Any:
        """Return what stands at a path."""
        found: Any = self.content
        for key in path:
            found = found[key]
        return found


def section(title: str, text: str, inner: str) -> str:
    """Return a section; `text` and `inner` are HTML already."""
    said = f'<p class="quiet">{text}</p>' if text else ""
    return f"<section><h2>{escape(title)}</h2>{said}{inner}</section>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already; a column whose title begins with # holds numbers."""
    kinds = [' class="n"' if column.startswith("#") else "" for column in columns]
    head = "".join(f"<th{kind}>{escape(column.lstrip('#'))}</th>" for kind, column in zip(kinds, columns, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def legend(names: Iterable[str]) -> str:
    """Name the colours of series, in their order."""
    items = "".join(key(f"v{index}", escape(name)) for index, name in enumerate(names))
    return f'<ul class="legend">{items}</ul>'


def key(css: str, text: str) -> str:
    """Return an item of a legend; `text` is HTML already."""
    swatch = f'<svg width="12" height="12" aria-hidden="true"><rect class="{css}" width="12" height="12" rx="2"/></svg>'
    return f"<li>{swatch}{text}</li>"


def figure_path(path: Iterable[str | int]) -> str:
    """Join a path; by slashes, since versions hold dots."""
    return escape("/".join(map(str, path)))


def plain(value: float) -> str:
    """Show a number as it is."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def percent(value: float) -> str:
    """Show a share in percent."""
    return f"{value * 100:.1f} %"


def thousandths(value: float) -> str:
    """Show a number with three decimals."""
    return f"{value:,.3f}"


def rounded(value: float) -> str:
    """Show a number without decimals."""
    return f"{value:,.0f}"
