"""Log lines cannot hold a secret: by form, not by care."""

import ast
import io
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import tenantry
from tenantry.adapters import logs

CANARY = "tk_CANARY"


class Holder:
    """Something whose representation shows what it holds."""

    def __repr__(self) -> str:
        return f"Holder({CANARY})"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object(stream: io.StringIO) -> None:
    logs.get().info("rules live", generation=3, digest="0a1b", notes=["a", 1, None], problems=("x",), address=None)
    logs.get().warning("second\nline")
    first, second = lines(stream)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "rules live",
        "level": "info",
        "generation": 3,
        "digest": "0a1b",
        "notes": ["a", 1, None],
        "problems": ["x"],
        "address": None,
    }
    assert (second["event"], second["level"]) == ("second\nline", "warning")


@pytest.mark.parametrize(
    "field", ["key", "token", "authorization", "prompt", "body", "headers", "exception", "stack", "msg"]
)
def test_only_fields_that_are_listed_pass(stream: io.StringIO, field: str) -> None:
    logs.get().error("x", **{field: CANARY})
    assert CANARY not in stream.getvalue()
    assert set(lines(stream)[0]) == {"event", "level", "timestamp"}


@pytest.mark.parametrize("field", sorted(logs.FIELDS - {"event", "level", "timestamp"}))
def test_an_object_in_any_field_is_only_its_type(stream: io.StringIO, field: str) -> None:
    for value in (Holder(), {"key": CANARY}, CANARY.encode(), ValueError(CANARY), {CANARY}):
        logs.get().error("x", **{field: value})
        logs.get().error("x", **{field: [value, (CANARY,), [CANARY]]})
    assert CANARY not in stream.getvalue()
    assert len(lines(stream)) == 10
    if field not in ("error", "where"):
        assert [line[field] for line in lines(stream)[:3]] == ["Holder", ["Holder", "tuple", "list"], "dict"]


def test_an_exception_is_its_type_and_place(stream: io.StringIO) -> None:
    secret = CANARY

    def fail() -> None:
        inside = secret
        try:
            json.loads(inside)
        except ValueError as error:
            raise RuntimeError(f"could not read {inside}") from error

    try:
        fail()
    except RuntimeError as error:
        error.add_note(CANARY)
        logs.get().error("x", exc_info=error)
        logs.get().error("x", exc_info=(type(error), error, error.__traceback__))
        logs.get().error("x", exc_info=True)
        logs.get().exception("x")
        logs.get().error("x", exc_info=error, stack_info=True)
        logs.get().error("x", exc_info=error, error=str(error), where=CANARY)  # nobody else writes these two
        caught = (type(error), error, error.__traceback__)
        place = traceback.extract_tb(error.__traceback__)[-1].lineno
    logs.get().error("x", exc_info=caught)
    logs.get().error("x", exc_info=RuntimeError(CANARY))  # never raised: it has no place
    logs.get().error("x", exc_info=True)  # outside of any: nothing to tell
    logs.get().error("x", error=CANARY, where=CANARY)
    assert CANARY not in stream.getvalue()
    *told, nowhere, nothing, nobody = lines(stream)
    assert len(told) == 7
    for line in told:
        assert line["error"] == "RuntimeError"
        assert line["where"] == f"fail:{place}"
    assert (nowhere["error"], nowhere["where"]) == ("RuntimeError", "")
    assert "error" not in nothing
    assert "error" not in nobody


def test_a_line_has_a_bound(stream: io.StringIO) -> None:
    logs.get().error("e" * 10_000, problems=["p" * 10_000] * 1000, reason="r" * 10_000)
    (line,) = lines(stream)
    assert (len(line["event"]), len(line["reason"])) == (logs.MAX_TEXT, logs.MAX_TEXT)
    assert [len(each) for each in line["problems"]] == [logs.MAX_TEXT] * logs.MAX_ITEMS


def test_a_level_can_be_chosen() -> None:
    stream = io.StringIO()
    logs.configure(stream, level="warning")
    logs.get().info("quiet")
    logs.get().warning("loud")
    structlog.reset_defaults()
    assert [line["event"] for line in lines(stream)] == ["loud"]
    assert logging.getLevelName("WARNING") == logging.WARNING


def test_without_configuration_the_rule_holds_too(capsys: pytest.CaptureFixture[str]) -> None:
    """structlog's own default prints the locals of an exception."""
    structlog.reset_defaults()
    logs.get().error("x", exc_info=RuntimeError(CANARY), key=CANARY)
    structlog.reset_defaults()
    captured = capsys.readouterr()
    assert CANARY not in captured.out + captured.err


def test_whoever_logs_writes_a_fixed_event_and_listed_fields() -> None:
    """An f-string could hold anything, and a field that is not listed would be lost."""
    calls = [
        call
        for path in Path(tenantry.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("logs.get().")
    ]
    assert len(calls) >= 4
    for call in calls:
        assert [type(argument) for argument in call.args] == [ast.Constant], ast.unparse(call)
        names = {keyword.arg for keyword in call.keywords}
        assert names <= logs.FIELDS - {"error", "where"} | {"exc_info"}, ast.unparse(call)
