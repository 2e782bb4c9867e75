"""The page's part on metering: where the GPU time went, who used how much, and one tenant's invoice."""

from collections.abc import Iterator
from html import escape
from typing import Any

from demo.charts import NARROW, WIDE, Bar, Part, bars, both, whole
from demo.report_parts import Document, figure_path, key, plain, section, table, thousandths

HALF = 416
"""Width of one of two charts side by side, in the drawing's pixels."""

PARTS = (("tenants", "tenants", "v0"), ("operator", "operator", "v1"), ("cold_start", "cold starts", "v2"),
         ("idle", "idle", "idle"))  # fmt: skip

NOTES = {
    "stand-in": "The engines are stand-ins, so this GPU time, the cold starts and the amounts are simulated. How the "
    "time of each step is divided, delivered through a spool on disk, booked and billed is what real engines get.",
    "vllm": "The engines run on CPU: what counts as GPU time here is theirs.",
}


def metering(document: Document) -> str:
    """Return the sections; of a play whose ledger said nothing, that it did not."""
    if not document["metering"]["billed"]:
        note = '<p class="note">The ledger says nothing.</p>'
        return section("Where the GPU time went", "", note)
    return _conservation(document) + _used(document) + _invoice(document)


def metering_tiles(document: Document) -> list[tuple[str, str, str]]:
    """Return title, figure and note of each tile; none for a play whose ledger said nothing."""
    if not document["metering"]["billed"]:
        return []
    wall = document.figure("metering", "wall_gpu_seconds", show=thousandths)
    charged = document.figure("metering", "charged", "amount")
    currency = escape(document["metering"]["charged"]["currency"])
    owned = document.figure("metering", "unexplained_ns", unit=" ns")
    return [("GPU time without an owner", owned, f"of {wall} s; tenants are charged {charged} {currency}")]


def _conservation(document: Document) -> str:
    parts = [
        Part(
            value=document["metering"][name],
            title=f"{label}: {thousandths(document['metering'][name])} GPU-seconds",
            of=figure_path(("metering", name)),
            css=css,
        )
        for name, label, css in PARTS
    ]
    drawn = [whole(parts, width=width, what="Wall time of all GPUs, by who pays for it") for width in (WIDE, NARROW)]
    keys = "".join(
        key(css, f"{label} {document.figure('metering', name, show=thousandths)} s") for name, label, css in PARTS
    )
    sums = " + ".join(document.figure("metering", "gpu_ns", name) for name, _, _ in PARTS)
    wall = document.figure("metering", "gpu_ns", "wall")
    owned = "none is missing" if document["metering"]["conserved"] else "<strong>this does not hold</strong>"
    text = (
        f"{sums} = {wall} GPU-nanoseconds of {document.figure('metering', 'cold_starts')} engines: {owned}. The "
        "requests' records and the engines' own clocks are two accounts; they are compared when the engines have ended."
    )
    return section(
        "Where the GPU time went", text, both(*drawn) + f'<ul class="legend above">{keys}</ul>' + _note(document)
    )


def _note(document: Document) -> str:
    copies = ""
    if document["metering"]["mirrored"]:
        copies = (
            f" The operator pays for {document.figure('metering', 'mirrored')} mirrored copies "
            f"({document.figure('metering', 'mirror', show=thousandths)} s), and for what is idle."
        )
    return f'<p class="quiet">{NOTES[document["engine"]]}{copies}</p>'


def _used(document: Document) -> str:
    return (
        '<div class="pair">'
        + section("GPU-seconds", "Shares of the steps that requests were in.", _bars(document, "gpu_seconds", "s"))
        + section(
            "Compute units",
            "Tokens, by what the model's arithmetic weighs.",
            _bars(document, "compute_units", "units"),
        )
        + "</div>"
    )


def _bars(document: Document, figure: str, unit: str) -> str:
    rows = [
        Bar(
            label=name,
            value=billed[figure],
            text=f"{thousandths(billed[figure])} {unit}",
            of=figure_path(("metering", "billed", name, figure)),
            css="plain",
        )
        for name, billed in document["metering"]["billed"].items()
    ]
    return both(*(bars(rows, width=width, what=f"{figure.replace('_', ' ')} by tenant") for width in (HALF, NARROW)))


def _invoice(document: Document) -> str:
    """Return the invoice of the first tenant that has one."""
    billed = document["metering"]["billed"]
    name = next((name for name in document["tenants"] if name in billed), next(iter(billed)))
    currency = escape(billed[name]["invoice"]["currency"])
    rows = list(_lines(document, name, billed[name]["lines"]))
    total = document.figure("metering", "billed", name, "invoice", "amount")
    rows.append(["<strong>total</strong>", *[""] * (len(COLUMNS) - 1), f"<strong>{total}</strong>"])
    return section(
        f"{name}'s invoice, {document['metering']['period']}",
        f"As the tenant reads it with its own API key, in {currency}. Lines are rounded so that they add up.",
        table([*COLUMNS, f"#{currency}"], rows),
    )


COLUMNS = (
    "", "tier", "#requests", "#in", "#cached", "#out", "#GPU s", "#units", "#per unit", "#per GPU-hour",
)  # fmt: skip
_USED = ("requests", "input_tokens", "cached_tokens", "output_tokens")


def _lines(document: Document, name: str, lines: list[dict[str, Any]]) -> Iterator[list[str]]:
    for index, line in enumerate(lines):

        def figure(key: str, *, shown: bool = True, at: int = index, decimals: bool = False) -> str:
            show = thousandths if decimals else plain
            return document.figure("metering", "billed", name, "lines", at, key, show=show) if shown else ""

        share = line["kind"] == "cold_start"
        model = escape(f"{line['model']} {line['version']}".strip())
        yield [
            f"share of cold starts of {model}" if share else model,
            escape(line["tier"]),
            *(figure(each, shown=not share) for each in _USED),
            figure("gpu_seconds", decimals=True),
            figure("compute_units", shown=not share, decimals=True),
            figure("compute_unit_price", shown=not share),
            figure("gpu_hour_price", shown=float(line["gpu_hour_price"]) > 0),
            figure("amount"),
        ]
