"""A client of Pinecone as applications are written: the real SDK, REST or gRPC, every operation once.

It runs in an environment of its own (`pip install "pinecone[grpc]==10.2.*"`), so it imports nothing of ours. JSON in on
stdin, JSON out on stdout: what each operation answered, or the error that it raised.

    {"host": "http://127.0.0.1:5081", "transport": "rest", "api_key": "k", "namespace": "docs", "prefix": "a-"}

`host` is a plain-text URL; with `"transport": "grpc"` it is the gRPC port's. `prefix` begins each id, so that two
tenants can be played with equal or with different ids. `marker`, when there, is in each row's metadata. `only` names
the operations to run, all without it.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from pinecone import Index  # type: ignore[import-not-found]  # only where this runs
from pinecone.grpc import GrpcIndex  # type: ignore[import-not-found]


def connect(job: dict[str, Any]) -> Any:
    if job["transport"] == "grpc":
        return GrpcIndex(host=job["host"], api_key=job["api_key"], secure=job.get("secure", False))
    return Index(host=job["host"], api_key=job["api_key"])


def vectors(prefix: str, marker: str) -> list[dict[str, Any]]:
    genres = ("drama", "comedy", "drama")
    marked = {"marker": marker} if marker else {}
    return [
        {
            "id": f"{prefix}{index}",
            "values": [1.0, 0.1 * index, 0.0, 0.5],
            "metadata": {"genre": genre, "year": 2000 + index, **marked},
        }
        for index, genre in enumerate(genres)
    ]


def shown(vector: Any) -> dict[str, Any]:
    found = {"values": list(vector.values or []), "metadata": vector.metadata}
    score = getattr(vector, "score", None)
    return found if score is None else {**found, "score": round(score, 4)}


def operations(index: Any, job: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield a name and a function for each operation, in an order in which they build on each other."""
    ns, prefix = job["namespace"], job["prefix"]
    query = [1.0, 0.0, 0.0, 0.5]
    yield "upsert", lambda: index.upsert(vectors=vectors(prefix, job.get("marker", "")), namespace=ns).upserted_count
    yield "query", lambda: [m.id for m in index.query(vector=query, top_k=10, namespace=ns).matches]
    yield (
        "query_all",
        lambda: {
            m.id: shown(m)
            for m in index.query(
                vector=query, top_k=10, namespace=ns, include_metadata=True, include_values=True
            ).matches
        },
    )
    yield (
        "query_filter",
        lambda: [
            m.id
            for m in index.query(
                vector=query, top_k=10, namespace=ns, filter={"genre": {"$eq": "drama"}, "year": {"$gte": 2001}}
            ).matches
        ],
    )
    yield "query_by_id", lambda: [m.id for m in index.query(id=f"{prefix}0", top_k=10, namespace=ns).matches]
    yield (
        "fetch",
        lambda: {
            one: shown(v) for one, v in index.fetch(ids=[f"{prefix}0", f"{prefix}1"], namespace=ns).vectors.items()
        },
    )
    yield (
        "fetch_by_metadata",
        lambda: sorted(index.fetch_by_metadata(filter={"genre": "comedy"}, namespace=ns).vectors),
    )
    yield "list", lambda: listed(index, ns, prefix)
    yield "stats", lambda: {name: s.vector_count for name, s in index.describe_index_stats().namespaces.items()}
    yield "update", lambda: index.update(id=f"{prefix}0", set_metadata={"genre": "noir"}, namespace=ns) and None
    yield "fetch_updated", lambda: index.fetch(ids=[f"{prefix}0"], namespace=ns).vectors[f"{prefix}0"].metadata
    yield "delete", lambda: index.delete(ids=[f"{prefix}1"], namespace=ns) and None
    yield "list_after_delete", lambda: listed(index, ns, prefix)
    yield "delete_by_filter", lambda: index.delete(filter={"genre": "noir"}, namespace=ns) and None
    yield "delete_all", lambda: index.delete(delete_all=True, namespace=ns) and None
    yield "list_at_the_end", lambda: listed(index, ns, prefix)


def listed(index: Any, ns: str, prefix: str) -> list[str]:
    return [item.id for item in index.list_paginated(prefix=prefix, namespace=ns).vectors]


def main() -> None:
    job = json.load(sys.stdin)
    index = connect(job)
    results: dict[str, dict[str, Any]] = {}
    for name, run in operations(index, job):
        if "only" in job and name not in job["only"]:
            continue
        started = time.perf_counter()
        try:
            results[name] = {"answer": run()}
        except Exception as error:
            results[name] = {"error": type(error).__name__, "message": str(error)}
        results[name]["ms"] = round((time.perf_counter() - started) * 1000, 1)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
