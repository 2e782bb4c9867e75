"""A collection's life through pymilvus as it is: first by MilvusClient, then by the ORM, as far as the version has it.

Job: {uri, token, collection, tenant_marker, db_name?, partition?, skip?}. The marker begins every text that this
client writes, so whoever reads the report sees whose rows came back. `skip` names steps or groups: "client", "orm".
"""

import warnings

warnings.filterwarnings("ignore")

import pymilvus
from _steps import DIMENSION, Steps, vector
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, MilvusClient, connections, utility

WORDS = ("ant", "bee", "cat", "dog", "elk", "fox")


def main():
    steps = Steps({"name": "pymilvus", "version": pymilvus.__version__})
    try:
        by_client(steps)
        by_orm(steps)
    finally:
        steps.finish()


def rows(steps, keys, *, note=""):
    """Return rows with these primary keys; their texts begin with the tenant's marker."""
    texts = [f"{steps.marker}: {WORDS[index % len(WORDS)]}{note}" for index in range(len(keys))]
    return [
        {"id": key, "text": text, "price": 10 * index, "vector": vector(text)}
        for index, (key, text) in enumerate(zip(keys, texts, strict=True))
    ]


def found(hits):
    """Return ids and texts of a search's first (only) query."""
    hits = hits[0] if hits and not isinstance(hits[0], dict) else hits
    return [[hit["id"], (hit.get("entity") or {}).get("text")] for hit in hits]


def got(entities):
    """Return ids and texts of a query."""
    return [[entity.get("id"), entity.get("text")] for entity in entities]


def drained(iterator, pick):
    pages = []
    try:
        while True:
            page = iterator.next()
            if not page:
                return pages
            pages.append(pick(page))
    finally:
        iterator.close()


def by_client(steps):
    job = steps.job
    name = job["collection"]
    client = steps.run(
        "client.connect",
        lambda: MilvusClient(uri=job["uri"], token=job["token"], db_name=job.get("db_name", ""), timeout=20),
    )
    if client is None:
        return
    run = steps.run
    run("client.list_collections", client.list_collections)
    run("client.has_collection", lambda: client.has_collection(name))
    run("client.create_collection", lambda: client_create(client, name))
    run("client.describe_collection", lambda: [f["name"] for f in client.describe_collection(name)["fields"]])
    run("client.load_state", lambda: client.get_load_state(name))
    run("client.insert", lambda: client.insert(name, rows(steps, [1, 2, 3, 4, 5, 6])))
    probe = vector(f"{steps.marker}: cat")
    run("client.count", lambda: client.query(name, filter="", output_fields=["count(*)"], consistency_level="Strong"))
    run("client.count_filter", lambda: client.query(name, filter="price >= 20", output_fields=["count(*)"]))
    run("client.query", lambda: got(client.query(name, filter="price >= 20", output_fields=["text", "price"])))
    run(
        "client.query_star",
        lambda: [sorted(row) for row in client.query(name, filter="id in [1]", output_fields=["*"])],
    )
    run("client.query_no_fields", lambda: [sorted(row) for row in client.query(name, filter="id in [1]")])
    run("client.get", lambda: got(client.get(name, ids=[1, 2], output_fields=["text"])))
    run("client.search", lambda: found(client.search(name, data=[probe], limit=3, output_fields=["text"])))
    run(
        "client.search_filter",
        lambda: found(client.search(name, data=[probe], limit=9, filter="price < 30", output_fields=["text"])),
    )
    run(
        "client.search_offset",
        lambda: found(client.search(name, data=[probe], limit=2, offset=1, output_fields=["text"])),
    )
    run(
        "client.search_group",
        lambda: found(client.search(name, data=[probe], limit=2, group_by_field="price", output_fields=["text"])),
    )
    run(
        "client.search_range",
        lambda: found(
            client.search(
                name,
                data=[probe],
                limit=6,
                output_fields=["text"],
                search_params={"metric_type": "COSINE", "params": {"radius": 0.5, "range_filter": 1.0}},
            )
        ),
    )
    if hasattr(client, "hybrid_search"):
        run("client.hybrid_search", lambda: found(client_hybrid(client, name, steps)))
    if hasattr(client, "query_iterator"):
        run(
            "client.query_iterator",
            lambda: drained(
                client.query_iterator(name, batch_size=2, filter="price >= 0", output_fields=["text"]), got
            ),
        )
        run(
            "client.search_iterator",
            lambda: drained(
                client.search_iterator(name, data=[probe], batch_size=2, limit=5, output_fields=["text"]), found
            ),
        )
    run("client.upsert", lambda: client.upsert(name, rows(steps, [1, 2], note=" (second)")))
    run(
        "client.query_after_upsert",
        lambda: got(client.query(name, filter="id in [1, 2]", output_fields=["text"], consistency_level="Strong")),
    )
    run("client.delete_ids", lambda: client.delete(name, ids=[3]))
    run("client.delete_filter", lambda: client.delete(name, filter="price >= 40"))
    run(
        "client.query_after_delete",
        lambda: got(client.query(name, filter="id >= 0", output_fields=["text"], consistency_level="Strong")),
    )
    run("client.stats", lambda: client.get_collection_stats(name))
    client_partitions(steps, client, name)
    client_databases(steps, client)
    run("client.describe_index", lambda: client.describe_index(name, client.list_indexes(name)[0]))
    run("client.release", lambda: client.release_collection(name))
    run("client.drop_collection", lambda: client.drop_collection(name))
    run("client.search_unknown", lambda: client.search(name, data=[probe], limit=1))
    run("client.close", client.close)


def client_create(client, name):
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=200)
    schema.add_field("price", DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_collection(name, schema=schema, index_params=index)


def client_hybrid(client, name, steps, metric="COSINE"):
    from pymilvus import AnnSearchRequest, RRFRanker

    requests = [
        AnnSearchRequest([vector(f"{steps.marker}: {word}")], "vector", {"metric_type": metric}, 4, expr="price >= 0")
        for word in ("cat", "dog")
    ]
    return client.hybrid_search(name, requests, RRFRanker(60), limit=3, output_fields=["text"])


def client_partitions(steps, client, name):
    partition = steps.job.get("partition", "part_one")
    run = steps.run
    run("client.create_partition", lambda: client.create_partition(name, partition))
    run("client.list_partitions", lambda: client.list_partitions(name))
    run("client.insert_partition", lambda: client.insert(name, rows(steps, [101, 102]), partition_name=partition))
    run(
        "client.query_partition",
        lambda: got(
            client.query(
                name, filter="id >= 0", output_fields=["text"], partition_names=[partition], consistency_level="Strong"
            )
        ),
    )
    run(
        "client.search_partition",
        lambda: found(
            client.search(
                name,
                data=[vector("x")],
                limit=9,
                output_fields=["text"],
                partition_names=[partition],
                consistency_level="Strong",
            )
        ),
    )
    # A row of another partition: nothing may happen.
    run("client.delete_other_partition", lambda: client.delete(name, ids=[1], partition_name=partition))
    run(
        "client.query_other_partition",
        lambda: got(client.query(name, filter="id in [1]", output_fields=["text"], consistency_level="Strong")),
    )


def client_databases(steps, client):
    if hasattr(client, "create_database"):
        steps.run("client.list_databases", client.list_databases)
        steps.run("client.create_database", lambda: client.create_database("db_" + steps.job["collection"]))
        steps.run("client.drop_database", lambda: client.drop_database("db_" + steps.job["collection"]))


def by_orm(steps):
    job = steps.job
    name = f"{job['collection']}_orm"
    run = steps.run
    run(
        "orm.connect",
        lambda: connections.connect(
            alias="default", uri=job["uri"], token=job["token"], db_name=job.get("db_name", ""), timeout=20
        ),
    )
    fields = [
        FieldSchema("id", DataType.VARCHAR, is_primary=True, max_length=64),
        FieldSchema("text", DataType.VARCHAR, max_length=200),
        FieldSchema("price", DataType.INT64),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=DIMENSION),
    ]
    schema = CollectionSchema(fields, enable_dynamic_field=True)
    run("orm.list_collections", utility.list_collections)
    collection = run("orm.create_collection", lambda: Collection(name, schema, consistency_level="Strong"))
    if collection is None:
        collection = run("orm.open_collection", lambda: Collection(name))
    if collection is None:
        return
    index = {"index_type": "HNSW", "metric_type": "L2", "params": {"M": 8, "efConstruction": 32}}
    if run("orm.create_index", lambda: bool(collection.create_index("vector", index) or True)) is None:
        run(
            "orm.create_index_flat",
            lambda: collection.create_index("vector", {**index, "index_type": "FLAT", "params": {}}),
        )
    run("orm.load", collection.load)
    keys = ["k1", "k2", "k3", "k4"]
    run("orm.insert", lambda: collection.insert([{**row, "note": "n"} for row in rows(steps, keys)]).insert_count)
    run("orm.insert_columns", lambda: collection.insert(columns(steps, ["k5", "k6"])).insert_count)
    run("orm.flush", collection.flush)
    run("orm.num_entities", lambda: collection.num_entities)
    run("orm.query", lambda: got(collection.query("price >= 10", output_fields=["id", "text"])))
    run("orm.query_dynamic", lambda: got(collection.query('note == "n"', output_fields=["id", "text", "note"])))
    run("orm.count", lambda: collection.query("", output_fields=["count(*)"]))
    probe = vector(f"{steps.marker}: cat")
    search = {"metric_type": "L2", "params": {"ef": 32}}
    run(
        "orm.search",
        lambda: [
            [hit.id, hit.entity.get("text")]
            for hit in collection.search([probe], "vector", search, limit=3, output_fields=["text"])[0]
        ],
    )
    if hasattr(collection, "hybrid_search"):
        run("orm.hybrid_search", lambda: [str(hit.id) for hit in orm_hybrid(collection, probe, search)[0]])
    if hasattr(collection, "query_iterator"):
        run(
            "orm.query_iterator",
            lambda: drained(
                collection.query_iterator(batch_size=2, expr='id like "k%"', output_fields=["id", "text"]), got
            ),
        )
    if hasattr(collection, "search_iterator"):
        run(
            "orm.search_iterator",
            lambda: drained(
                collection.search_iterator([probe], "vector", search, batch_size=2, limit=5, output_fields=["text"]),
                lambda page: [hit.id for hit in page],
            ),
        )
    run(
        "orm.upsert",
        lambda: (
            collection.upsert(
                [{**row, "note": "u"} for row in rows(steps, ["k1", "k9"], note=" (second)")]
            ).upsert_count
        ),
    )
    run("orm.query_after_upsert", lambda: got(collection.query('id in ["k1", "k9"]', output_fields=["id", "text"])))
    run("orm.delete_pk", lambda: collection.delete('id in ["k2"]').delete_count)
    run("orm.delete_expr", lambda: collection.delete("price >= 20").delete_count)
    run("orm.query_after_delete", lambda: got(collection.query('id like "k%"', output_fields=["id", "text"])))
    run("orm.create_alias", lambda: utility.create_alias(name, f"{name}_alias"))
    run("orm.drop_alias", lambda: utility.drop_alias(f"{name}_alias"))
    run("orm.release", collection.release)
    run("orm.drop", collection.drop)
    run("orm.disconnect", lambda: connections.disconnect("default"))


def columns(steps, keys):
    """Return the same rows by column, in the order of the schema, as the ORM also takes them."""
    made = rows(steps, keys)
    return [[row[field] for row in made] for field in ("id", "text", "price", "vector")]


def orm_hybrid(collection, probe, search):
    from pymilvus import AnnSearchRequest, WeightedRanker

    requests = [AnnSearchRequest([probe], "vector", search, 4, expr="price >= 0") for _ in range(2)]
    return collection.hybrid_search(requests, WeightedRanker(0.5, 0.5), 3, output_fields=["text"])


if __name__ == "__main__":
    main()
