"""The demo's retrieval: whose a text is, what counts as held, and what the report says of a play without it."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tenantry.adapters.rules_file import read_file, read_rules
from tenantry.core.apikeys import digest_text
from tenantry_testing.demo_retrieval import FOREIGN, OWN, asked, clean_retrieval, stored
from tenantry_testing.demo_run import clean_run

from demo import rules_document
from demo.measure import build
from demo.report import Report
from demo.report_html import page
from demo.retrieval_run import AttackCall, RetrievalRun, Verdict, Verified
from demo.retrieval_story import ATTACKER, DOCUMENTS, QUESTIONS, STORE, TENANT, TENANTS, documents_in
from demo.retrieval_wire import Attack, Attacked, Connect, Failed, Stored, encode, read_reply, read_request
from demo.word_pieces import word_pieces, words

SAFE = "the store is proven to keep tenants apart, and every question is answered"
OWN_ROWS = "no row of another tenant comes back, to a question or to an attack"
OWN_ANSWER = "both ask the same, and each is answered from its own document"
IN_VAIN = "every attack is refused or harmless"
KEPT = "the engine holds at the end what it held before the attacks, and no row of nobody's"
WITHHELD = "the sidecar verified the rows that came back, and had to withhold none"


def report(retrieval: RetrievalRun) -> Report:
    return build(replace(clean_run(), retrieval=retrieval))


def failed(retrieval: RetrievalRun) -> list[str]:
    return [expectation.what for expectation in report(retrieval).expectations if not expectation.held]


def changed(**fields: Any) -> RetrievalRun:
    return replace(clean_retrieval(), **fields)


def attacked(answer: Attacked | Failed) -> RetrievalRun:
    """The run with another answer to its last attack."""
    run = clean_retrieval()
    return replace(run, attacks=(run.attacks[0], AttackCall(name="an attack", answer=answer)))


# --- the story ---


def test_what_both_tenants_have_differs_by_the_figure_alone() -> None:
    ours, theirs = (DOCUMENTS[name] for name in TENANTS)

    assert [(one.id, one.title) for one in ours] == [(other.id, other.title) for other in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.text != other.text
        assert one.text.replace(one.secret, other.secret) == other.text
    titles = {document.title for document in ours}
    assert {question.title for question in QUESTIONS} < titles


def test_a_text_says_whose_it_is_wherever_it_stands() -> None:
    found = documents_in(f"['{OWN.text}', {{'text': '{FOREIGN.text}'}}]")

    assert list(found) == [(TENANT, FOREIGN), (ATTACKER, OWN)]
    assert list(documents_in(f"{OWN.title} {OWN.id} {OWN.secret}")) == []


# --- what holds ---


def test_a_clean_run_holds_every_expectation() -> None:
    vector = report(clean_retrieval()).vector

    assert failed(clean_retrieval()) == []
    assert (vector.queries, vector.attacks, vector.foreign_rows, vector.rows_lost) == (10, 2, 0, 0)
    assert [(one.outcome, one.status, one.own_rows) for one in vector.tried] == [
        ("refused", "INVALID_ARGUMENT", 0),
        ("harmless", "", 1),
    ]
    assert vector.questions[0].answers == {TENANT: [FOREIGN.text], ATTACKER: [OWN.text]}
    assert (vector.tenants[TENANT].rows_before, vector.tenants[TENANT].rows_after) == (12, 12)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (changed(asked=(*clean_retrieval().asked, asked(ATTACKER, 0, OWN, FOREIGN))), [OWN_ROWS]),
        (changed(asked=(*clean_retrieval().asked, asked(ATTACKER, 0, FOREIGN))), [OWN_ROWS, OWN_ANSWER]),
        (changed(asked=(*clean_retrieval().asked, asked(ATTACKER, 1, OWN))), [OWN_ANSWER]),
        (changed(asked=(*clean_retrieval().asked, asked(TENANT, 0, error="refused"))), [SAFE]),
        (changed(asked=clean_retrieval().asked[1:]), [SAFE, OWN_ANSWER]),
        (changed(error="the client ended"), [SAFE]),
        (changed(verdict=Verdict(standing="unsafe", version="", reasons=("shared",))), [SAFE]),
        (attacked(Attacked(said=str([OWN.text, FOREIGN.text]))), [OWN_ROWS, IN_VAIN]),
        (attacked(Attacked(refused="INTERNAL", message=f"cannot read {FOREIGN.text}")), [OWN_ROWS, IN_VAIN]),
        (attacked(Attacked(said="13", count=13)), [OWN_ROWS, IN_VAIN]),
        (attacked(Failed(error="KeyError: 1")), [IN_VAIN]),
        (changed(attacks=clean_retrieval().attacks[:1]), [IN_VAIN]),
        (changed(attacks=(), attacks_known=0), [IN_VAIN]),
        (changed(after=stored(TENANT)[1:] + stored(ATTACKER)), [KEPT]),
        (
            changed(after=(replace(stored(TENANT)[0], text="overwritten"), *stored(TENANT)[1:], *stored(ATTACKER))),
            [KEPT],
        ),
        (changed(after=(*clean_retrieval().after, Stored(collection="x", tenant=TENANT, id=9, text="forged"))), [KEPT]),
        (changed(after=(*clean_retrieval().after, Stored(collection="x", tenant="", id=9, text="forged"))), [KEPT]),
        (changed(verified=Verified(rows=20, foreign=1)), [WITHHELD]),
        (changed(verified=Verified(rows=9, foreign=0)), [WITHHELD]),
    ],
)
def test_each_defect_fails_its_own_expectation(run: RetrievalRun, expected: list[str]) -> None:
    assert failed(run) == expected


def test_a_count_of_its_own_rows_is_harmless() -> None:
    assert failed(attacked(Attacked(said="12", count=12))) == []


def test_a_play_without_retrieval_says_so_and_stands_by_the_rest() -> None:
    without = report(RetrievalRun(not_run="no environment"))

    assert (without.ok, without.vector.queries, without.vector.not_run) == (True, 0, "no environment")
    assert not any("tenant comes back" in expectation.what for expectation in without.expectations)
    assert "It did not run: no environment." in page(without)


# --- the page ---


def test_the_page_shows_both_answers_with_what_differs_and_every_attack() -> None:
    shown = page(report(attacked(Attacked(said=str([FOREIGN.text])))))

    assert "A refund above <strong>4,217</strong> euros" in shown
    assert "A refund above <strong>1,893</strong> euros" in shown
    assert "filter <code>a) or (b</code>" in shown
    assert "✗ leaked" in shown


# --- rules, wire, words ---


def test_the_store_and_its_tenants_are_in_the_rules_or_nothing_of_them(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    tenants = {name: ("gold", digest_text(f"tk_{name}")) for name in TENANTS}
    rules_document.fill(path, {}, {}, rules_document.set_store("127.0.0.1:5555", tenants))

    rules = read_rules(read_file(path))
    assert (rules.stores[STORE].endpoints, rules.stores[STORE].isolation) == (("127.0.0.1:5555",), "collection")
    assert {name: rules.tenants[name].keys for name in TENANTS} == {
        name: (digest,) for name, (_, digest) in tenants.items()
    }

    rules_document.fill(path, {}, {}, rules_document.without_stores())
    template = rules_document.TEMPLATE.read_text()
    assert read_rules(read_file(path)).stores == {}
    assert path.read_text().strip() == template[: template.index("stores:")].strip()


def test_clients_and_the_demo_read_each_other() -> None:
    assert read_request(encode(Attack(name="a"))) == Attack(name="a")
    assert read_request(encode(Connect(uri="http://a:1"))) == Connect(uri="http://a:1")
    assert read_reply(encode(Failed(error="a"))) == Failed(error="a")


def test_words_are_cut_into_the_longest_pieces_that_are_known() -> None:
    known = {piece: index for index, piece in enumerate(("play", "##ing", "##i", "cafe", ",", "["))}

    assert list(words("Playing, Café [x]")) == ["playing", ",", "cafe", "[", "x", "]"]
    assert word_pieces("playing", known) == ["play", "##ing"]
    assert word_pieces("player", known) == ["[UNK]"]
    assert word_pieces("p" * 101, {"p": 0, "##p": 1}) == ["[UNK]"]
