"""What each answer means for each event; and how fast a destination is tried."""

import json

import pytest
from tenantry.core.billing.answers import MAX_WORDS, Answer, one_line, read_answer
from tenantry.core.billing.export_settings import DestinationName
from tenantry.core.billing.outbox import MAX_RETRY_AFTER_S, After, Pace, after, overdue
from tenantry_testing.exports import NOW

THREE = ("a", "b", "c")
HTML = b"<html>welcome</html>"
LAGO = json.dumps({"events": [{"transaction_id": name} for name in THREE]}).encode()


def lago_422(**details: object) -> bytes:
    return json.dumps(
        {"status": 422, "error_details": {key.lstrip("_"): value for key, value in details.items()}}
    ).encode()


def stripe_400(**error: str) -> bytes:
    return json.dumps({"error": error}).encode()


KNOWN = {"transaction_id": ["value_already_exist"]}
BAD = {"external_subscription_id": ["subscription_not_found"]}


@pytest.mark.parametrize(
    ("destination", "ids", "status", "body", "verdicts", "trouble"),
    [
        ("openmeter", THREE, 204, b"", "taken taken taken", False),
        ("openmeter", THREE, 202, b"", "taken taken taken", False),
        ("openmeter", THREE, 200, HTML, "unknown unknown unknown", True),
        ("openmeter", THREE, 202, HTML, "unknown unknown unknown", True),
        ("openmeter", THREE, 400, b'{"title": "Bad Request"}', "split split split", False),
        ("openmeter", ("a",), 400, b'{"title": "Bad Request"}', "refused", False),
        ("openmeter", THREE, 400, HTML, "not_taken not_taken not_taken", True),
        ("openmeter", THREE, 413, HTML, "split split split", False),
        ("lago", THREE, 200, LAGO, "taken taken taken", False),
        ("lago", (*THREE, "d"), 200, LAGO, "unknown unknown unknown unknown", True),
        ("lago", THREE, 200, b'{"events": 3}', "unknown unknown unknown", True),
        ("lago", THREE, 422, lago_422(_0=KNOWN, _2=BAD), "taken not_taken refused", False),
        ("lago", THREE, 422, lago_422(_1=KNOWN | BAD), "not_taken refused not_taken", False),
        ("lago", THREE, 422, lago_422(events=["too_many_events"]), "split split split", False),
        ("lago", THREE, 422, lago_422(_7=KNOWN), "split split split", False),
        ("lago", ("a",), 422, lago_422(**KNOWN), "taken", False),
        ("lago", ("a",), 422, lago_422(**BAD), "refused", False),
        ("lago", ("a",), 422, b"[]", "refused", False),
        ("stripe", ("a",), 200, b'{"identifier": "a"}', "taken", False),
        ("stripe", ("a",), 200, b'{"identifier": "z"}', "unknown", True),
        ("stripe", ("a",), 400, stripe_400(message="An event already exists with identifier a."), "taken", False),
        ("stripe", ("a",), 400, stripe_400(code="duplicate_meter_event"), "taken", False),
        ("stripe", ("a",), 400, stripe_400(message="No such customer"), "refused", False),
        ("stripe", ("a",), 409, stripe_400(code="idempotency_key_in_use"), "unknown", True),
        ("lago", ("a",), 409, b"{}", "not_taken", True),
        *((name, ("a",), status, HTML, verdict, True)
          for name in ("openmeter", "lago", "stripe")
          for status, verdict in (
              (500, "unknown"), (502, "unknown"), (503, "unknown"), (504, "unknown"), (408, "unknown"),
              (301, "not_taken"), (307, "not_taken"), (401, "not_taken"), (403, "not_taken"), (404, "not_taken"),
              (405, "not_taken"), (415, "not_taken"), (429, "not_taken"),
          )),
    ],
)  # fmt: skip
def test_answers(
    destination: DestinationName, ids: tuple[str, ...], status: int, body: bytes, verdicts: str, trouble: bool
) -> None:
    reading = read_answer(destination, ids, Answer(status=status, body=body))
    assert " ".join(reading.verdicts) == verdicts
    assert bool(reading.trouble) == trouble
    assert len(reading.words) == len(ids)


def test_no_answer_is_only_harmless_when_nothing_left() -> None:
    lost = read_answer("lago", THREE, Answer(said="no answer within 10 s"))
    assert (set(lost.verdicts), lost.trouble) == ({"unknown"}, "no answer within 10 s")
    refused = read_answer("lago", THREE, Answer(left=False, said="no connection"))
    assert (set(refused.verdicts), refused.trouble) == ({"not_taken"}, "no connection")


def test_words_are_short_and_of_one_line() -> None:
    reading = read_answer(
        "stripe", ("a",), Answer(status=400, body=b'{"error":\n "\x1b[31mno \xff' + b"x" * 5_000 + b'"}')
    )
    assert reading.verdicts == ("not_taken",)  # no JSON
    assert len(reading.trouble) <= MAX_WORDS
    assert reading.trouble.isprintable()
    assert one_line("a\n\tb") == "a b"


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"events": [1, null]}', b"\xff", b'"' + b"9" * 100_000 + b'"', b"9" * 9_999]
)
@pytest.mark.parametrize("status", [200, 204, 400, 422, 500])
def test_no_answer_is_an_error_here(body: bytes, status: int) -> None:
    names: tuple[DestinationName, ...] = ("openmeter", "lago", "stripe")
    for name in names:
        assert len(read_answer(name, ("a",), Answer(status=status, body=body)).verdicts) == 1


def test_an_event_is_in_doubt_from_the_first_send_whose_fate_is_unknown() -> None:
    first = after("unknown", "", doubtful_before_s=None, sent_s=NOW)
    assert first == After(state="pending", doubtful_since_s=NOW)
    assert after("unknown", "", doubtful_before_s=NOW, sent_s=NOW + 60) == first
    assert after("not_taken", "", doubtful_before_s=NOW, sent_s=NOW + 60) == first
    assert after("not_taken", "", doubtful_before_s=None, sent_s=NOW) == After(state="pending")
    assert after("taken", "", doubtful_before_s=NOW, sent_s=NOW + 60) == After(state="done")
    parked = after("refused", "400 no", doubtful_before_s=NOW, sent_s=NOW + 60)
    assert parked.reason == "refused: 400 no; an earlier send of it may have been counted"
    assert parked.state == "parked"


def test_an_event_in_doubt_is_overdue_an_hour_before_it_is_forgotten() -> None:
    hours = 3600
    assert not overdue(NOW, 24.0, NOW + 23 * hours - 1)
    assert overdue(NOW, 24.0, NOW + 23 * hours)
    assert not overdue(NOW, None, NOW + 10_000 * hours)
    assert not overdue(None, 24.0, NOW)
    assert not overdue(NOW, 24.0, NOW - 60)  # a clock that was set back a little
    assert overdue(NOW, 24.0, NOW - 30 * hours)  # by so much that nobody knows how much time passed


def test_a_destination_that_fails_is_tried_with_growing_pauses() -> None:
    pace = Pace(size=100, most=100)
    pauses = []
    now_s = NOW
    for _ in range(12):
        pace = pace.failed(now_s, retry_after_s=None, chance=1.0)
        pauses.append(pace.not_before_s - now_s)
        assert not pace.due(pace.not_before_s - 0.01)
        now_s = pace.not_before_s
        assert pace.due(now_s)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert Pace(size=1, most=1).failed(NOW, retry_after_s=None, chance=0.0).not_before_s == NOW + 0.5


def test_it_grows_again_from_one_event() -> None:
    pace = Pace(size=100, most=100).failed(NOW, retry_after_s=None, chance=0.5)
    sizes = [pace.size]
    while pace.size < 100:
        pace = pace.succeeded()
        sizes.append(pace.size)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 100]
    assert pace.failures == 0


def test_retry_after_is_honoured_and_bounded() -> None:
    pace = Pace(size=1, most=1)
    assert pace.failed(NOW, retry_after_s=90, chance=0.5).not_before_s == NOW + 90
    assert pace.failed(NOW, retry_after_s=0, chance=1.0).not_before_s == NOW + 1
    assert pace.failed(NOW, retry_after_s=1e9, chance=0.5).not_before_s == NOW + MAX_RETRY_AFTER_S


def test_probes_take_new_events_ever_more_rarely() -> None:
    pace, fresh = Pace(size=1, most=1), []
    for probe in range(1, 600):
        pace = pace.failed(NOW, retry_after_s=None, chance=0.5)
        fresh += [probe] if pace.fresh else []
    assert fresh == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_a_clock_that_was_set_back_does_not_hold_it_up() -> None:
    pace = Pace(size=1, most=1).failed(NOW, retry_after_s=None, chance=0.5)
    assert pace.due(NOW - 86_400)
