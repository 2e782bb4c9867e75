"""Try to break out of a tenant: known attacks and made-up ones, through real Envoy, against real engines.

    python -m bench.attack [--seed 20261125] [--filters 5000] [--core 100000] [--engines lite3,lite25,m23]

Three real Milvus engines (`tools/milvus_engines.py`) behind `tenantry up`, each in every layout that is safe there;
Pinecone as an in-memory stand-in, since there is none to install. Milvus's REST v2 is spoken by no engine that can be
installed: its cases are put to the code that rewrites (`contract_only`).

Prints one JSON object as its last line; exits 1 on a leak, a lost row or a false refusal. DEEP=1 makes ten times as
many filters. What is counted besides:

- `differences`: filters that found other rows than the client's own text does on the tenant's rows alone;
- `grammar_rejections`: filters that Milvus 2.3.5's grammar does not have as we print them, but as they came;
- `deviations`: known attacks that were expected to be refused and were answered with the tenant's own data, and why.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grpc
import msgspec
from msgspec import Struct

from bench import attack_cases, attack_core, attack_filters, attack_frames, attack_pinecone, attack_rest
from bench.attack_alone import alone
from bench.attack_seen import Seen, count
from bench.attack_store import running
from bench.stack import ROOT
from tools import milvus_engines

SEED = 20_261_125
LAYOUTS: dict[milvus_engines.Kind, tuple[str, ...]] = {
    "m23": ("keyprefix", "partition", "database", "collection"),
    "lite3": ("keyprefix", "collection", "database"),
    "lite25": ("keyprefix", "collection"),
}
"""By engine; the longest run first."""

DELETES = 100
SHOWN = 20
WHY = {
    "pc-upd": "it names the reserved field, and so is refused as a whole",
    "pc-docs": "rewritten, and refused by the stand-in, which has no documents",
    "iter": "Milvus Lite numbers no collections: each has the id 0, which iterators send, and which names none",
    "method-ShowCollections": "open to tenants, and shows their own collections alone: llama-index begins with it",
    "method-GetCollectionStatistics": "open to tenants about collections of their own",
}
"""Why a case that was expected to be refused is not."""


class Result(Struct, kw_only=True):
    """What one engine in one layout showed."""

    engine: str
    version: str
    isolation: str
    cases: Seen
    frames: Seen
    filters: attack_filters.Found
    corpus: attack_filters.Found
    rows_lost: int
    seconds: float

    @property
    def leaks(self) -> int:
        """How many answers held what is not the tenant's."""
        return len(self.leaked)

    @property
    def leaked(self) -> list[str]:
        """By which cases and filters."""
        return [name for part in (self.cases, self.frames, self.filters, self.corpus) for name in part.leaks]


def attack_engine(
    kind: milvus_engines.Kind, isolation: str, seed: int, filters: int, *, deletes: int = DELETES, mutant: str = ""
) -> Result:
    """Attack one engine in one layout; `mutant` as for `bench.stack.tenantry`."""
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="tenantry-attack-"))
    try:
        with running(kind, isolation, folder, mutant) as engine, alone(engine, folder / "alone") as solo:
            found = attack_filters.run(engine, solo, seed, filters)
            corpus = attack_filters.run_corpus(engine, solo)
            lost = attack_filters.run_deletes(engine, seed, deletes)
            frames, cases = attack_frames.run(engine), attack_cases.run(engine)  # the first of them write nothing
            lost += cases.rows_lost + attack_cases.shared_keys(engine)
            return Result(
                engine=kind, version=engine.version, isolation=isolation, cases=cases, frames=frames, filters=found,
                corpus=corpus, rows_lost=lost, seconds=round(time.monotonic() - begin, 1),
            )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def attack_engines(kinds: Iterable[milvus_engines.Kind], seed: int, filters: int) -> Iterator[Result]:
    """Attack engines in all their layouts, two at a time; yield what is done. `filters` are for one engine."""
    # Spawned: a process that has used gRPC cannot be forked.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        work = [
            pool.submit(_attack, kind, isolation, seed + place, -(-filters // len(LAYOUTS[kind])))
            for kind in kinds
            for place, isolation in enumerate(LAYOUTS[kind])
        ]
        for done in as_completed(work):
            yield done.result()


def _attack(kind: milvus_engines.Kind, isolation: str, seed: int, filters: int) -> Result:
    try:
        return attack_engine(kind, isolation, seed, filters)
    except grpc.RpcError as error:  # which cannot be sent from process to process
        where = "".join(traceback.format_exception(error, chain=False))
        raise RuntimeError(f"{kind}, {isolation}: {error.code().name}: {error.details()}\n{where}") from None


def report(results: list[Result], core: attack_core.Tally, seed: int) -> dict[str, Any]:
    """Return the figures of a whole run."""
    rest, pinecone = attack_rest.run(), attack_pinecone.run()
    found = [part for result in results for part in (result.filters, result.corpus)]
    corpus = [text for _, _, text in attack_filters.corpus()]
    seen = [part for result in results for part in (result.cases, result.frames)]
    deviations: dict[str, str] = {}
    for part in (*seen, rest, pinecone):
        deviations |= part.deviations
    return {
        "engines": [f"{result.engine} {result.version} {result.isolation}" for result in results],
        "cases": sum(part.cases for part in seen) + rest.cases + pinecone.cases,
        "corpus_cases": count(),
        "expressions_core": core.filters,
        "expressions_engine": sum(result.filters.filters for result in results),
        "leaks": sum(result.leaks for result in results) + len(core.leaks) + len(rest.leaks) + len(pinecone.leaks),
        "rows_lost": sum(result.rows_lost for result in results) + pinecone.rows_lost,
        "legitimate": len(corpus),
        "false_refusals": sum(len(part.false_refusals) for part in found),
        "grammar_rejections": sum(len(part.grammar_rejections) for part in found),
        "differences": sum(len(part.differences) for part in found) + len(core.differences) + len(core.unreadable),
        "compared": sum(part.compared for part in found),
        "deviations": {name: WHY.get(name, said) for name, said in sorted(deviations.items())},
        "contract_only": {"milvus.rest": rest.cases},
        "stand_in": {"pinecone": pinecone.cases},
        "details": [msgspec.to_builtins(_shown(result)) for result in results],
        "core": {name: getattr(core, name)[:SHOWN] for name in ("leaks", "differences", "unreadable")},
        "pinecone": msgspec.to_builtins(pinecone),
        "rest": msgspec.to_builtins(rest),
        "seed": seed,
        "versions": {
            "tenantry": _own_version(), "python": platform.python_version(), "pinecone": attack_pinecone.SDK_VERSION,
            **{kind: milvus_engines.VERSIONS[kind] for kind in LAYOUTS},
        },
    }  # fmt: skip


def _shown(result: Result) -> Result:
    """Return the result with no more than some of the filters at fault."""
    for found in (result.filters, result.corpus):
        for name in ("leaks", "differences", "grammar_rejections", "false_refusals"):
            setattr(found, name, getattr(found, name)[:SHOWN])
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
    core = attack_core.run(options.seed, options.core)
    _say(f"core: {core.filters} filters, {len(core.leaks)} leaks, {time.monotonic() - begin:.1f} s")
    results = []
    for result in attack_engines(
        [kind for kind in LAYOUTS if kind in options.engines.split(",")], options.seed, options.filters
    ):
        results.append(result)
        found = f"{result.leaks} leaks, {result.rows_lost} rows lost"
        _say(f"{result.engine} {result.isolation}: {found}, {result.seconds} s")
        for name in result.leaked[:SHOWN]:
            _say(f"  leak: {name!r}")
    figures = report(results, core, options.seed)
    figures["seconds"] = round(time.monotonic() - begin, 1)
    print(json.dumps(figures))
    sys.exit(1 if figures["leaks"] or figures["rows_lost"] or figures["false_refusals"] else 0)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
