"""Large rules are read by another process and come back the same; what goes wrong there loses no document."""

import gc
import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog
import yaml
from tenantry.adapters import logs, rules_aside
from tenantry.adapters.rules_aside import ASIDE_BYTES, PIECE_TENANTS, book_of, found
from tenantry.adapters.rules_file import Parts, rules_of
from tenantry.core.apikeys import digest, digest_text
from tenantry.core.errors import RulesError
from tenantry_testing.documents import document


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    structlog.reset_defaults()


def large(count: int = 3 * PIECE_TENANTS + 1) -> Parts:
    tenants = {
        f"tenant-{number}": {
            "tier": "gold",
            "keys": [{"digest": digest_text(f"key {number}"), "notAfter": "2027-06-01T00:00:00+02:00"}],
            "quota": {"computeUnitsPerMinute": number + 1},
        }
        for number in range(count)
    }
    rest = document()
    del rest["tenants"]
    return (
        ("rules.yaml", yaml.safe_dump(rest).encode()),
        ("tenants.yaml", yaml.safe_dump({"tenants": tenants}, sort_keys=False).encode()),
    )


async def test_what_comes_back_is_the_same(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = large()
    assert sum(len(raw) for _, raw in parts) > ASIDE_BYTES
    here = rules_of(parts)
    monkeypatch.setattr(rules_aside, "rules_of", None)  # it is not read in this process
    book = await book_of(parts)
    assert book.rules == here
    assert list(book.rules.tenants) == list(here.tenants)
    entry = book.key(digest(b"key 300"))
    assert entry is not None
    assert (entry.tenant, entry.not_after) == ("tenant-300", 1811800800.0)
    assert log.getvalue() == ""
    assert gc.isenabled()


async def test_a_refusal_comes_back_with_every_problem() -> None:
    rules, tenants = large()
    bad = (rules, (tenants[0], tenants[1].replace(b"tier: gold", b"tier: golf", 2)))
    with pytest.raises(RulesError) as caught:
        await book_of(bad)
    assert [str(problem) for problem in caught.value.problems] == [
        f'tenants.yaml: tenants.tenant-{number}.tier: no tier is called "golf"; did you mean "gold"? '
        "(known: bronze, gold)"
        for number in range(2)
    ]
    assert found(bad).problems == tuple(caught.value.problems)


@pytest.mark.parametrize("instead", ["/nowhere/python", "/bin/false", "/bin/echo"])
async def test_a_reader_that_fails_is_done_without(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch, instead: str
) -> None:
    """No such program, one that fails, one that writes something else."""
    monkeypatch.setattr(sys, "executable", instead)
    book = await book_of(large())
    assert len(book.rules.tenants) == 3 * PIECE_TENANTS + 1
    (line,) = [json.loads(line) for line in log.getvalue().splitlines()]
    assert line["event"] == "large rules are read in this process, which holds up requests"


async def test_small_rules_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert list((await book_of((("", yaml.safe_dump(document()).encode()),))).rules.tenants)
