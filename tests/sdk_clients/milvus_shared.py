"""A tenant's work in a collection that its operator made and others share, through pymilvus's MilvusClient as it is.

Job: {uri, token, collection, tenant_marker, keys, skip?}: four primary keys, whole numbers or texts. The collection has
a primary key, a vector and dynamic fields. Making and dropping it is not the tenant's, and is tried.
"""

import warnings

warnings.filterwarnings("ignore")

import pymilvus
from _steps import Steps, vector
from milvus_roundtrip import client_create, client_hybrid, drained, found, got, rows
from pymilvus import MilvusClient


def main():
    steps = Steps({"name": "pymilvus", "version": pymilvus.__version__})
    try:
        story(steps)
    finally:
        steps.finish()


def story(steps):
    job, run = steps.job, steps.run
    name, keys = job["collection"], job["keys"]
    everything = "price >= 0"
    client = run("connect", lambda: MilvusClient(uri=job["uri"], token=job["token"], timeout=20))
    if client is None:
        return
    probe = vector(f"{steps.marker}: cat")

    def query():
        return got(client.query(name, filter=everything, output_fields=["text"], consistency_level="Strong"))

    run("list_collections", client.list_collections)
    run("describe_collection", lambda: [field["name"] for field in client.describe_collection(name)["fields"]])
    run("create_collection", lambda: client_create(client, f"{name}_own"))
    run("load", lambda: client.load_collection(name))
    run("insert", lambda: client.insert(name, rows(steps, keys)))
    run("count", lambda: client.query(name, filter="", output_fields=["count(*)"], consistency_level="Strong"))
    run("query", query)
    run("get", lambda: got(client.get(name, ids=keys[:2], output_fields=["text"])))
    run("search", lambda: found(client.search(name, data=[probe], limit=9, output_fields=["text"])))
    if hasattr(client, "hybrid_search"):
        run("hybrid_search", lambda: found(client_hybrid(client, name, steps, "L2")))
    run(
        "query_iterator",
        lambda: drained(client.query_iterator(name, batch_size=2, filter=everything, output_fields=["text"]), got),
    )
    run(
        "search_iterator",
        lambda: drained(
            client.search_iterator(name, data=[probe], batch_size=2, limit=9, output_fields=["text"]), found
        ),
    )
    run("upsert", lambda: client.upsert(name, rows(steps, keys[:2], note=" (second)")))
    run("delete_ids", lambda: client.delete(name, ids=[keys[2]]))
    run("query_after", query)
    run("drop_collection", lambda: client.drop_collection(name))
    run("query_at_the_end", query)
    run("close", client.close)


if __name__ == "__main__":
    main()
