"""What a destination's answer says of each event that was sent. Pure; nothing that a server may say is an error here.

| verdict | what is known of the event | what follows |
|---|---|---|
| `taken` | it counts, once: accepted now, or known from an earlier send | done |
| `refused` | it will never be accepted as it is | parked for a person |
| `not_taken` | it was certainly not counted by this send | sent again |
| `unknown` | it may have been counted: no answer, 5xx, or one that makes no sense | sent again, while that is safe |
| `split` | some event of the batch is refused, none was counted, and nobody says which | sent again in halves |

A fault that is not the event's own (a wrong token, a wrong path, too many requests) is `not_taken`: thousands of good
events must not be parked for it. The answer's words are kept for a person, short and in one line.
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from tenantry.core.billing.export_settings import DestinationName

Verdict = Literal["taken", "refused", "not_taken", "unknown", "split"]

MAX_ANSWER_BYTES = 256 * 1024
"""An answer to 100 events of Lago is about 50 KB."""
MAX_WORDS = 300
_OWN_FAULT = (400, 402, 413, 422)
"""Statuses by which a destination refuses what an event says. Others below 500 are about the request as a whole."""


class Answer(Struct, frozen=True, kw_only=True):
    """What came back. `status` is None without an answer; then `left` tells whether anything may have got there."""

    status: int | None = None
    left: bool = True
    body: bytes = b""
    retry_after_s: float | None = None
    said: str = ""


class Reading(Struct, frozen=True, kw_only=True):
    """A verdict for each event, in order, and the words for `refused` ones.

    `trouble` is empty while the destination works; else it says what keeps it from taking anything at all.
    """

    verdicts: tuple[Verdict, ...]
    words: tuple[str, ...]
    trouble: str = ""


def read_answer(destination: DestinationName, ids: tuple[str, ...], answer: Answer) -> Reading:
    """Return what an answer to these events, sent in this order, says of each."""
    status = answer.status
    if status is None:
        verdict: Verdict = "unknown" if answer.left else "not_taken"
        return _all(ids, verdict, answer.said or "no answer", trouble=True)
    if 200 <= status < 300:
        if _accepted(destination, ids, answer):
            return _all(ids, "taken", "")
        return _all(ids, "unknown", f"{status} with a body that is no answer of {destination}", trouble=True)
    if status in _OWN_FAULT:
        return _faulty(destination, ids, answer)
    if status >= 500 or status == 408 or (status == 409 and destination == "stripe"):
        # 409: an earlier request with this key is still being worked on.
        return _all(ids, "unknown", _words(answer), trouble=True)
    return _all(ids, "not_taken", _words(answer), trouble=True)


def _accepted(destination: DestinationName, ids: tuple[str, ...], answer: Answer) -> bool:
    """Return whether a 2xx is the destination's own: a proxy's page of welcome must not stand for a receipt."""
    body = _json(answer.body)
    if destination == "openmeter":
        return answer.status == 204 or (answer.status == 202 and (not answer.body.strip() or body is not None))
    if destination == "lago":
        events = body.get("events") if isinstance(body, dict) else None
        if not isinstance(events, list):
            return False
        return {event.get("transaction_id") for event in events if isinstance(event, dict)} >= set(ids)
    return isinstance(body, dict) and [body.get("identifier")] == list(ids)


def _faulty(destination: DestinationName, ids: tuple[str, ...], answer: Answer) -> Reading:
    body = _json(answer.body)
    if body is None and answer.status != 413:
        # The destinations refuse in JSON: this came from something in between, and says nothing of the events.
        return _all(ids, "not_taken", _words(answer), trouble=True)
    if destination == "lago" and answer.status == 422:
        named = _lago(ids, body)
        if named is not None:
            return named
    if destination == "stripe" and _is_duplicate(body):
        return _all(ids, "taken", "")
    if len(ids) > 1:
        return _all(ids, "split", _words(answer))
    return _all(ids, "refused", _words(answer))


def _lago(ids: tuple[str, ...], body: Any) -> Reading | None:
    """Read `error_details`: by an event's place, or as it is for a batch of one. The rest was not booked."""
    details = body.get("error_details") if isinstance(body, dict) else None
    if not isinstance(details, dict) or not details:
        return None
    if not all(key.isdecimal() and int(key) < len(ids) for key in details):
        if len(ids) > 1:
            return None
        details = {"0": details}
    verdicts: list[Verdict] = ["not_taken"] * len(ids)
    words = [""] * len(ids)
    for key, faults in details.items():
        place = int(key)
        # Its own words, with nothing beside: an id that is known *and* something else wrong is for a person.
        known = (
            isinstance(faults, dict) and faults.get("transaction_id") == ["value_already_exist"] and len(faults) == 1
        )
        verdicts[place] = "taken" if known else "refused"
        words[place] = "" if known else one_line(msgspec.json.encode(faults).decode())
    return Reading(verdicts=tuple(verdicts), words=tuple(words))


def _is_duplicate(body: Any) -> bool:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return False
    message = error.get("message")
    told = isinstance(message, str) and message.startswith("An event already exists with identifier")
    return error.get("code") == "duplicate_meter_event" or told


def _all(ids: tuple[str, ...], verdict: Verdict, words: str, *, trouble: bool = False) -> Reading:
    return Reading(verdicts=(verdict,) * len(ids), words=(words,) * len(ids), trouble=words if trouble else "")


def _words(answer: Answer) -> str:
    return one_line(f"{answer.status} {answer.body[: 4 * MAX_WORDS].decode(errors='replace')}")


def one_line(text: str) -> str:
    """Return text for a table's cell: printable, one line, at most 300 characters."""
    line = "".join(character if character.isprintable() else " " for character in " ".join(text.split()))
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 3] + "..."


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
