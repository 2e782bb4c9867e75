"""`make attack` in short, so that a leak fails here: known attacks, made-up filters, shared keys, through real Envoy.

The whole of it takes minutes and runs all engines in all layouts. That it can fail is shown here too: with a guard
that is broken in the running sidecar it counts leaks and lost rows.
"""

import pytest

from bench import attack_pinecone
from bench.attack import SEED, attack_engine
from tools.milvus_engines import ENVIRONMENTS, Kind

SHORT: list[tuple[Kind, str]] = [("lite25", "keyprefix"), ("lite3", "collection")]

BROKEN = """
from tenantry.core.vector import milvus_reads
whole = milvus_reads.scoped
def broken(text, **more):
    made = whole(text, **more)
    # The canaries of the proof at the start see the guard as it is.
    return made.replace(") and (", ") or (", 1) if more["tenant"] == "acme" else made
milvus_reads.scoped = broken
"""


@pytest.fixture(autouse=True)
def engines(environments: dict[str, str | None]) -> None:
    for name in ENVIRONMENTS.values():
        if environments[name] is None:
            pytest.skip(f"no {name} environment: `python3 tools/env.py {name}` says why")


@pytest.mark.parametrize(("kind", "isolation"), SHORT)
def test_nothing_gets_out(kind: Kind, isolation: str) -> None:
    found = attack_engine(kind, isolation, SEED, 200, deletes=40)
    assert (found.leaks, found.rows_lost) == (0, 0)
    assert found.corpus.false_refusals == []
    assert found.filters.differences + found.corpus.differences == []
    assert (found.cases.cases, found.filters.filters) == (67, 200)
    assert found.cases.denied > 100  # several requests a case
    assert found.filters.compared + found.corpus.compared > 150


def test_a_broken_guard_gets_seen() -> None:
    found = attack_engine("lite25", "keyprefix", SEED, 100, deletes=20, mutant=BROKEN)
    assert found.filters.leaks
    assert found.frames.leaks
    assert "count-filtered" in found.frames.leaks
    assert found.rows_lost


def test_pinecone_leaks_nothing_over_rest() -> None:
    found = attack_pinecone.run(sdk=False)  # by the SDK: test_sdks.py
    assert (found.cases, found.leaks, found.rows_lost) == (8, [], 0)
