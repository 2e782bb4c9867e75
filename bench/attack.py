"""Try to break out of a tenant: known attacks and made-up ones, through real Envoy, against real engines.

    python -m bench.attack [--seed 20261125] [--filters 5000] [--core 100000] [--engines lite3,lite25,m23]

Three real Milvus engines (`tools/milvus_engines.py`) behind `tenantry up`, each in a layout where every tenant has a
collection of its own and in one where all share one; Pinecone as an in-memory stand-in, since there is none to install.
Milvus's REST v2 is spoken by no engine that can be installed: its cases are put to the code that rewrites
(`contract_only`). Prints one JSON object as its last line; exits 1 on a leak, a lost row or a false refusal. DEEP=1
makes ten times as many filters. `differences` are filters that found other rows than on the tenant's rows alone;
`deviations` known attacks that were expected to be refused and were answered with the tenant's own data.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bench import attack_cases, attack_core, attack_filters, attack_pinecone, attack_rest
from bench.attack_alone import alone
from bench.attack_store import running
from bench.stack import ROOT
from tools import milvus_engines

SEED = 20_261_125
LAYOUTS: dict[milvus_engines.Kind, tuple[str, ...]] = {
    "lite3": ("collection", "keyprefix"),
    "lite25": ("collection", "keyprefix"),
    "m23": ("database", "partition"),
}
DELETES = 200


class Result(Struct, kw_only=True):
    """What one engine in one layout showed."""

    engine: str
    version: str
    isolation: str
    cases: attack_cases.Seen
    filters: attack_filters.Found
    corpus: attack_filters.Found
    rows_lost: int
    seconds: float

    @property
    def leaks(self) -> int:
        return len(self.cases.leaks) + len(self.filters.leaks) + len(self.corpus.leaks)


def attack_engine(kind: milvus_engines.Kind, isolation: str, seed: int, filters: int) -> Result:
    """Attack one engine in one layout."""
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="tenantry-attack-"))
    with running(kind, isolation, folder) as engine, alone(engine, folder / "alone") as solo:
        found = attack_filters.run(engine, solo, seed, filters)
        corpus = attack_filters.run_corpus(engine, solo)
        lost = attack_filters.run_deletes(engine, seed, DELETES)
        cases = attack_cases.run(engine)
        lost += attack_cases.shared_keys(engine)
        return Result(
            engine=kind, version=engine.version, isolation=isolation, cases=cases, filters=found, corpus=corpus,
            rows_lost=lost, seconds=round(time.monotonic() - begin, 1),
        )  # fmt: skip


def report(results: list[Result], core: attack_core.Tally, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a whole run."""
    rest, pinecone = attack_rest.run(), attack_pinecone.run()
    legitimate = sum(1 for _ in attack_filters.corpus())
    return {
        "engines": [f"{result.engine} {result.version} {result.isolation}" for result in results],
        "cases": sum(result.cases.cases for result in results) + rest.cases + pinecone.cases,
        "expressions_core": core.filters,
        "expressions_engine": sum(result.filters.filters for result in results),
        "leaks": sum(result.leaks for result in results) + len(core.leaks) + len(rest.leaks) + len(pinecone.leaks),
        "rows_lost": sum(result.rows_lost for result in results) + pinecone.rows_lost,
        "legitimate": legitimate,
        "false_refusals": sum(len(result.corpus.false_refusals) for result in results),
        "grammar_rejections": sum(
            len(result.filters.grammar_rejections) + len(result.corpus.grammar_rejections) for result in results
        ),
        "differences_core": core.differences[:20],
        "contract_only": {"milvus.rest": rest.cases},
        "stand_in": {"pinecone": pinecone.cases},
        "details": [msgspec.to_builtins(_shown(result)) for result in results],
        "pinecone": msgspec.to_builtins(pinecone),
        "rest": msgspec.to_builtins(rest),
        "seed": options.seed,
        "versions": {"tenantry": _own_version(), "python": platform.python_version()},
    }


def _shown(result: Result) -> Result:
    """Return the result with no more than some of the filters at fault."""
    for found in (result.filters, result.corpus):
        for name in ("leaks", "differences", "grammar_rejections", "false_refusals"):
            setattr(found, name, getattr(found, name)[:20])
    return result


def _own_version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return str(project["project"]["version"])


def main() -> None:
    """Run, print, and exit 1 when something got out."""
    deep = 10 if os.environ.get("DEEP") == "1" else 1
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--filters", type=int, default=5_000 * deep, help="for each engine, over its layouts")
    parser.add_argument("--core", type=int, default=100_000 * deep)
    parser.add_argument("--engines", default=",".join(LAYOUTS))
    options = parser.parse_args()
    begin = time.monotonic()
    results = []
    for kind in (kind for kind in LAYOUTS if kind in options.engines.split(",")):
        for isolation in LAYOUTS[kind]:
            results.append(attack_engine(kind, isolation, options.seed, options.filters // len(LAYOUTS[kind])))
            print(f"{kind} {isolation}: {results[-1].leaks} leaks, {results[-1].rows_lost} rows lost, "
                  f"{results[-1].seconds} s", file=sys.stderr)  # fmt: skip
    core = attack_core.run(options.seed, options.core)
    figures = report(results, core, options)
    figures["seconds"] = round(time.monotonic() - begin, 1)
    print(json.dumps(figures))
    sys.exit(1 if figures["leaks"] or figures["rows_lost"] or figures["false_refusals"] else 0)


if __name__ == "__main__":
    main()
