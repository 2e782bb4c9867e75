"""Vectors through pinecone's SDK as it is: upsert, query, fetch, list, update, delete, statistics.

Job: {host, token, tenant_marker, transport: "rest" | "grpc", namespace?, skip?}; the marker begins every text.
"""

import warnings

warnings.filterwarnings("ignore")

from importlib.metadata import version

from _steps import Steps, vector
from pinecone import GrpcIndex, Index


def main():
    steps = Steps({"name": "pinecone", "version": version("pinecone")})
    steps.seen["sdk"]["transport"] = steps.job["transport"]
    try:
        story(steps)
    finally:
        steps.finish()


def story(steps):
    job = steps.job
    run = steps.run
    space = job.get("namespace", "")
    if job["transport"] == "grpc":
        index = run("index.open", lambda: GrpcIndex(host=job["host"], api_key=job["token"], secure=False, timeout=10))
    else:
        index = run("index.open", lambda: Index(host=job["host"], api_key=job["token"], timeout=10))
    if index is None:
        return
    words = ("ant", "bee", "cat", "dog", "elk")
    rows = [
        {
            "id": f"{word}-1",
            "values": vector(f"{steps.marker}: {word}"),
            "metadata": {"text": f"{steps.marker}: {word}", "legs": 4 + place % 2 * 2},
        }
        for place, word in enumerate(words)
    ]
    probe = vector(f"{steps.marker}: cat")
    four = {"legs": {"$eq": 4}}
    run("index.upsert", lambda: index.upsert(vectors=rows, namespace=space).upserted_count)
    run("index.query", lambda: matches(index.query(vector=probe, top_k=2, namespace=space, include_metadata=True)))
    run(
        "index.query_filter",
        lambda: matches(index.query(vector=probe, top_k=9, namespace=space, filter=four, include_metadata=True)),
    )
    run("index.query_id", lambda: matches(index.query(id="cat-1", top_k=1, namespace=space, include_metadata=True)))
    run("index.query_bare", lambda: matches(index.query(vector=probe, top_k=2, namespace=space)))
    run("index.fetch", lambda: fetched(index.fetch(ids=["ant-1", "bee-1"], namespace=space)))
    run("index.fetch_by_metadata", lambda: fetched(index.fetch_by_metadata(filter=four, namespace=space)))
    run("index.list", lambda: [one.id for one in index.list_paginated(prefix="", namespace=space, limit=3).vectors])
    run(
        "index.update",
        lambda: index.update(id="bee-1", set_metadata={"text": f"{steps.marker}: bee (second)"}, namespace=space),
    )
    run("index.fetch_after_update", lambda: fetched(index.fetch(ids=["bee-1"], namespace=space)))
    run("index.delete_ids", lambda: index.delete(ids=["ant-1"], namespace=space))
    run("index.delete_filter", lambda: index.delete(filter={"legs": {"$eq": 6}}, namespace=space))
    run("index.left", lambda: matches(index.query(vector=probe, top_k=9, namespace=space, include_metadata=True)))
    run("index.stats", lambda: stats(index.describe_index_stats()))
    run("index.delete_all", lambda: index.delete(delete_all=True, namespace=space))
    run("index.empty", lambda: matches(index.query(vector=probe, top_k=9, namespace=space)))


def matches(response):
    return [[one.id, (one.metadata or {}).get("text")] for one in response.matches]


def fetched(response):
    return sorted([key, (one.metadata or {}).get("text")] for key, one in response.vectors.items())


def stats(response):
    return {
        "total": response.total_vector_count,
        "namespaces": {name: one.vector_count for name, one in response.namespaces.items()},
    }


if __name__ == "__main__":
    main()
