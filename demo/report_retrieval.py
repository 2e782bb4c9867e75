"""The page's part on retrieval: who asked what and was answered what, what was tried, and what the engine holds."""

from collections.abc import Sequence
from html import escape
from itertools import takewhile
from typing import Any

from demo.report_parts import Document, rounded, section, table

MAX_TRIED = 60


def retrieval(document: Document) -> str:
    """Return the sections; of a play without retrieval, why there is none."""
    vector = document["vector"]
    if vector["not_run"]:
        return section("Retrieval", "", f'<p class="note">It did not run: {escape(vector["not_run"])}.</p>')
    return _asked(vector) + _tenants(document, vector) + _tried(document, vector)


def retrieval_tiles(document: Document) -> list[tuple[str, str, str]]:
    """Return title, figure and note of each tile; none for a play without retrieval."""
    vector = document["vector"]
    if vector["not_run"]:
        return []
    returned = sum(tenant["rows_answered"] for tenant in vector["tenants"].values())
    outcomes = [attack["outcome"] for attack in vector["tried"]]
    return [
        (
            "Foreign rows from the vector store",
            document.figure("vector", "foreign_rows"),
            f"of {returned:,} returned to {document.figure('vector', 'queries')} questions",
        ),
        (
            "Break-outs tried on it",
            document.figure("vector", "attacks"),
            f"{outcomes.count('refused')} refused, {outcomes.count('harmless')} harmless",
        ),
    ]


def _asked(vector: dict[str, Any]) -> str:
    names = list(vector["tenants"])
    rows = []
    for question in vector["questions"]:
        texts = [question["answers"][name] for name in names]
        rows.append([escape(question["question"]), *(_answer(own, texts) for own in texts)])
    return section(
        "Two tenants, one question, one vector store",
        f"{escape(' and '.join(names))} keep look-alike documents in one {escape(vector['engine'])}: the same name of "
        f"the collection, the same primary keys and titles; <strong>only figures differ</strong>. Both use "
        f"{escape(vector['sdk'])} as it is, through the same Envoy. Vectors: {escape(vector['embeddings'])}. Before "
        f"anybody got it, the sidecar proved on the engine itself ({escape(vector['proven'])}) that it keeps tenants "
        f"apart: {escape(vector['standing'])}. Each cell has every nearest document that ever came.",
        table(["question", *names], rows),
    )


def _answer(texts: Sequence[str], all_texts: Sequence[Sequence[str]]) -> str:
    """Show the nearest texts, with what no other tenant's has made bold."""
    others = [text for other in all_texts if other is not texts for text in other]
    return "<br>".join(_marked(text, others[0] if others else text) for text in texts) or "nothing"


def _marked(text: str, other: str) -> str:
    words, others = text.split(), other.split()
    begin = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(words, others, strict=False)))
    rest = zip(reversed(words[begin:]), reversed(others[begin:]), strict=False)
    end = len(words) - sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], rest))
    parts = [escape(" ".join(part)) for part in (words[:begin], words[begin:end], words[end:])]
    if parts[1]:
        parts[1] = f"<strong>{parts[1]}</strong>"
    return " ".join(part for part in parts if part)


def _tenants(document: Document, vector: dict[str, Any]) -> str:
    def figure(name: str, *path: str) -> str:
        return document.figure("vector", "tenants", name, *path)

    rows = [
        [
            escape(name),
            *(figure(name, key) for key in ("queries", "rows_answered", "foreign_rows")),
            " / ".join(
                document.figure("vector", "tenants", name, "answer_ms", quantile, show=rounded)
                for quantile in ("p50", "p99")
            ),
            *(figure(name, key) for key in ("rows_before", "rows_after")),
            "<br>".join(f"<code>{escape(collection)}</code>" for collection in tenant["collections"]),
        ]
        for name, tenant in vector["tenants"].items()
    ]
    return section(
        "What the engine holds",
        f"Before and after: rows by tenant, read from the engine itself by its operator. "
        f"{document.figure('vector', 'rows_lost')} rows lost. The sidecar looked at "
        f"{document.figure('vector', 'rows_verified')} rows on their way back and withheld "
        f"{document.figure('vector', 'answers_withheld')} answers.",
        table(
            ["tenant", "#questions", "#rows", "#foreign", "#p50 / p99, ms", "#before", "#after", "its real collection"],
            rows,
        ),
    )


def _tried(document: Document, vector: dict[str, Any]) -> str:
    rows = [
        [
            _what(attack["what"]),
            _outcome(attack["outcome"]),
            f"<code>{escape(attack['status'])}</code>" if attack["status"] else "",
            document.figure("vector", "tried", index, "foreign_rows"),
            escape(attack["message"]),
        ]
        for index, attack in enumerate(vector["tried"][:MAX_TRIED])
    ]
    attacker = list(vector["tenants"])[-1]
    return section(
        "What an attacker achieves",
        f"{escape(attacker)} tries these with its own key, in between its questions. Harmless: answered, from its own "
        "rows alone. What it does to its own rows it mends.",
        table(["tried", "outcome", "status", "#foreign", "the attacker reads"], rows),
    )


def _what(attack: str) -> str:
    kind, _, text = attack.partition(" ")
    return f"filter <code>{escape(text)}</code>" if kind == "filter" else escape(attack)


def _outcome(outcome: str) -> str:
    css, sign = ("held", "✓") if outcome in ("refused", "harmless") else ("failed", "✗")
    return f'<span class="{css}">{sign} {escape(outcome)}</span>'
