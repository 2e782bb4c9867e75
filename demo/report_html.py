"""The report as one page that needs nothing else: no script, no font, no image, light and dark.

The page is written from report.json's own content: a figure is looked up there by its path, shown
in a <data> element that repeats path and exact value, and so cannot differ from it.
"""

from collections.abc import Callable
from html import escape
from pathlib import Path

import msgspec

from demo.charts import NARROW, WIDE, Bar, Column, Lane, Slice, bars, both, lanes
from demo.report import Report
from demo.report_metering import metering, metering_tiles
from demo.report_parts import Document, figure_path, legend, percent, plain, rounded, section, table, thousandths
from demo.report_retrieval import retrieval, retrieval_tiles
from demo.report_rollouts import candidate_tiles, candidates, split

CSS = Path(__file__).with_name("report.css")
MAX_SHOWN = 24
HALF = 416
"""Width of one of two charts side by side, in the drawing's pixels."""


def page(report: Report) -> str:
    """Return the page."""
    document = Document(msgspec.to_builtins(report))
    body = "".join(
        part(document)
        for part in (_head, _tiles, _timeline, candidates, metering, retrieval, _waiting, _speed_and_messages, _forgery,
                     _tenants, _refusals, _expectations, _method)
    )  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>tenantry demo ({escape(report.engine)})</title>"
        f"<style>{CSS.read_text(encoding='utf-8')}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def _head(document: Document) -> str:
    expectations = document["expectations"]
    failed = [expectation["what"] for expectation in expectations if not expectation["held"]]
    if failed:
        verdict = f'<p class="verdict failed">✗ {len(failed)} of {len(expectations)} expectations failed: '
        verdict += escape("; ".join(failed)) + "</p>"
    else:
        verdict = f'<p class="verdict held">✓ All {len(expectations)} expectations held</p>'
    crowd = "Light clients of more tenants load two rollouts. " if split(document) else ""
    if not document["vector"]["not_run"]:
        crowd += "Two more search a vector store, and one of them attacks it. "
    tiers = {tenant["tier"] for tenant in document["tenants"].values()}
    return (
        "<h1>tenantry demo</h1>"
        f'<p class="lead">{len(document["tenants"])} tenants of {len(tiers)} tiers, the real <code>openai</code> '
        f"client, one real Envoy. {crowd}{document.figure('seconds', show=rounded)} s in all, "
        f"{escape(document['started'][:16].replace('T', ' '))} UTC. Engine: {escape(document['engine'])}.</p>"
        f'<p class="note">{escape(document["engine_note"])}</p>{verdict}'
    )


def _tiles(document: Document) -> str:
    tenants = document["tenants"].values()
    sent = sum(tenant["forged_headers_sent"] for tenant in tenants)
    reached = sum(tenant["forged_headers_upstream"] for tenant in tenants)
    streamed = document.value("probes", "streamed")
    messages = streamed["ext_proc_messages"] / streamed["requests"]
    chunks = streamed["chunks"] / streamed["requests"]
    tiles = [
        ("Requests", document.figure("requests"), f"{document.figure('failed_requests')} failed"),
        ("Forged headers that reached an engine", f"{reached:,}", f"of {sent:,} sent"),
        ("ext_proc messages per streamed POST", f"{messages:g}", f"while {chunks:g} chunks went to the client"),
    ]
    if document["reload"] is not None:
        live = document.figure("reload", "live_after_ms", show=rounded, unit=" ms")
        failed = document.figure("reload", "failed_requests")
        tiles.append(("Edited rules live after", live, f"{failed} failed requests"))
    tiles += candidate_tiles(document) + metering_tiles(document) + retrieval_tiles(document)
    three = " three" if len(tiles) % 3 == 0 else ""
    inner = "".join(
        f'<section><h2>{escape(what)}</h2><span class="big">{big}</span><p>{note}</p></section>'
        for what, big, note in tiles
    )
    return f'<div class="tiles{three}">{inner}</div>'


def _timeline(document: Document) -> str:
    timeline, edit = document["timeline"], document["reload"]
    rows = [
        Lane(
            label=name,
            note=f"{tenant['tier']}, {tenant['rule']}",
            columns=[
                Column(
                    at_s=slot["at_s"],
                    slices=[
                        Slice(
                            series=version,
                            value=count,
                            of=figure_path(("timeline", "tenants", name, index, "versions", version)),
                        )
                        for version, count in slot["versions"].items()
                    ],
                )
                for index, slot in enumerate(timeline["tenants"][name])
            ],
        )
        for name, tenant in document["tenants"].items()
    ]
    mark = None if edit is None else (edit["at_s"], "rules edited")
    drawn = [
        lanes(rows, series=document.versions, bin_s=timeline["bin_s"], end_s=timeline["end_s"], mark=mark, width=width)
        for width in (WIDE, NARROW)
    ]
    change = "" if edit is None else f" At the dashed line the rules file was saved: {escape(edit['change'])}."
    return section(
        "Which version served whom",
        f"Requests per second by tenant, coloured by the version whose engine recorded them.{change}",
        legend(f"version {version}" for version in document.versions) + both(*drawn),
    )


def _waiting(document: Document) -> str:
    rows = [
        Bar(
            label=f"{name}, {tenant['tier']}",
            value=tenant["ttft_ms"]["p50"] or 0.0,
            text=f"{_milliseconds(tenant['ttft_ms']['p50'])}, p99 {_milliseconds(tenant['ttft_ms']['p99'])}",
            of=figure_path(("tenants", name, "ttft_ms", "p50")),
            css="plain",
            tail=tenant["ttft_ms"]["p99"],
            tail_of=figure_path(("tenants", name, "ttft_ms", "p99")),
        )
        for name, tenant in document["tenants"].items()
    ]
    drawn = [bars(rows, width=width, what="Time to first token by tenant") for width in (WIDE, NARROW)]
    return section(
        "Who waits for the first token",
        "Median of streamed requests; the thin line ends at the 99th percentile. Tenants on one version share its "
        "slots, and its queue goes by tier, whatever priority a client writes into its request.",
        both(*drawn),
    )


def _speed_and_messages(document: Document) -> str:
    speeds = [
        Bar(
            label=f"version {version}",
            value=facts["stream_tokens_per_s"] or 0.0,
            text=f"{facts['stream_tokens_per_s'] or 0:.0f} tokens/s",
            of=figure_path(("model_versions", version, "stream_tokens_per_s")),
            css=f"v{document.versions.index(version)}",
        )
        for version, facts in document["model_versions"].items()
    ]
    streamed = document.value("probes", "streamed")
    counts = [
        Bar(
            label="chunks to the client", value=streamed["chunks"], text=f"{streamed['chunks']:,}",
            of="probes/streamed/chunks", css="plain",
        ),
        Bar(
            label="ext_proc messages", value=streamed["ext_proc_messages"], text=f"{streamed['ext_proc_messages']:,}",
            of="probes/streamed/ext_proc_messages", css="plain",
        ),
    ]  # fmt: skip
    speed = [bars(speeds, width=width, what="Speed of a stream by version") for width in (HALF, NARROW)]
    count = [bars(counts, width=width, what="Chunks and ext_proc messages") for width in (HALF, NARROW)]
    return (
        '<div class="pair">'
        + section("Speed of a stream", "Median by version, after the first token.", both(*speed))
        + section(
            f"What {streamed['requests']} streamed answers cost",
            "The sidecar decides the request and never touches the answer.",
            both(*count),
        )
        + "</div>"
    )


def _forgery(document: Document) -> str:
    rows = [
        [
            f"<code>{escape(forged['name'])}</code>" + (" (body)" if forged["where"] == "body" else ""),
            f"<code>{escape(_cut(forged['value']))}</code>",
            document.figure("forgery", index, "sent"),
            document.figure("forgery", index, "reached"),
            escape(forged["engine_saw"]),
        ]
        for index, forged in enumerate(document["forgery"])
    ]
    forgers = [name for name, tenant in document["tenants"].items() if tenant["forged_headers_sent"]]
    return section(
        "What a forging client achieves",
        f"{escape(', '.join(forgers)) or 'Nobody'} adds these to every request, some headers in several copies.",
        table(["header or member", "written", "#sent", "#reached", "the engines saw"], rows),
    )


def _tenants(document: Document) -> str:
    tenants = document["tenants"]

    def row(what: str, cell: Callable[[str], str]) -> list[str]:
        return [escape(what), *map(cell, tenants)]

    def figures(what: str, key: str, show: Callable[[float], str] = plain) -> list[str]:
        return row(what, lambda name: document.figure("tenants", name, key, show=show))

    def quantiles(what: str, key: str) -> list[str]:
        return row(
            what,
            lambda name: " / ".join(
                document.figure("tenants", name, key, quantile, show=rounded) for quantile in ("p50", "p99")
            ),
        )

    rows = [
        row("tier", lambda name: escape(tenants[name]["tier"])),
        row("rule", lambda name: escape(tenants[name]["rule"])),
        row("expected version", lambda name: escape(tenants[name]["expected_version"])),
        row(
            "served by",
            lambda name: "<br>".join(
                f"{escape(version)}: {document.figure('tenants', name, 'versions', version)}"
                for version in tenants[name]["versions"]
            ),
        ),
        figures("requests", "requests"),
        figures("of them streamed", "streamed"),
        figures("of them embeddings", "embeddings"),
        figures("errors", "errors"),
        quantiles("TTFB p50 / p99, ms", "ttfb_ms"),
        quantiles("TTFT p50 / p99, ms", "ttft_ms"),
        figures("tokens/s of a stream", "stream_tokens_per_s", rounded),
        figures("tokens", "output_tokens"),
        figures("chunks streamed", "chunks"),
        row("billed answers, the rollouts' too", lambda name: _billed(document, name)),
        figures("their GPU-seconds", "gpu_seconds", thousandths),
        figures("their compute units", "compute_units", thousandths),
        row("invoice", lambda name: _money(document, name)),
        figures("ext_proc messages per POST", "ext_proc_messages_per_request"),
        row("priority at the engine", lambda name: " ".join(map(str, tenants[name]["priority_upstream"]))),
        figures("forged headers sent", "forged_headers_sent"),
        figures("forged headers reached", "forged_headers_upstream"),
        figures("its key seen upstream", "client_key_upstream"),
    ]
    return section("Tenants", "", table(["", *(f"#{name}" for name in tenants)], rows)) + _rollouts(document)


def _billed(document: Document, name: str) -> str:
    billed = document["metering"]["billed"]
    return document.figure("metering", "billed", name, "requests", show=plain) if name in billed else "-"


def _money(document: Document, name: str) -> str:
    invoice = document["tenants"][name]["invoice"]
    if invoice is None:
        return "-"
    return f"{document.figure('tenants', name, 'invoice', 'amount')} {escape(invoice['currency'])}"


def _rollouts(document: Document) -> str:
    rows = [
        [
            escape(model),
            escape(rollout["candidate"]),
            escape(rollout["state"]),
            document.figure("rollouts", model, "candidate_requests"),
            document.figure("rollouts", model, "candidate_share", show=percent),
        ]
        for model, rollout in document["rollouts"].items()
    ]
    return section(
        "Candidates",
        "Requests that the candidate served, and its share: of the units that the split drew; where it serves by beta "
        "flag alone, of all requests.",
        table(["model", "candidate", "state", "#requests", "#share"], rows),
    )


def _refusals(document: Document) -> str:
    rows = [
        [
            escape(refused["what"]),
            f"<code>{escape(refused['path'])}</code>",
            document.figure("refusals", index, "status"),
            escape(refused["message"]),
        ]
        for index, refused in enumerate(document["refusals"])
    ]
    return section("Refused, as it should be", "", table(["what", "path", "#status", "the client reads"], rows))


def _expectations(document: Document) -> str:
    rows = [
        [
            '<span class="held">✓ held</span>' if expectation["held"] else '<span class="failed">✗ failed</span>',
            escape(expectation["what"]),
            escape(expectation["detail"]),
        ]
        for expectation in document["expectations"]
    ]
    return section("Expectations", "", table(["", "what", "measured"], rows))


def _method(document: Document) -> str:
    sources = {what.capitalize(): where for what, where in document["sources"].items()}
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    facts = {**sources, "Versions": versions, "Seed": str(document["seed"])}
    inner = "".join(f"<dt>{escape(what)}</dt><dd>{escape(where)}</dd>" for what, where in facts.items())
    return section("Where the figures come from", "", f"<dl>{inner}</dl>")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} ms"
