"""The engines without the sidecar: that clients work with them directly, and the traits that our layouts rest on.

When one of these fails after an upgrade, core's table of safe layouts is to be looked at, not the test alone.
"""

import os

from tenantry_testing import sdk
from tenantry_testing.milvus_recorder import recording

from tools.milvus_engines import Engine

ABSENT = {
    "lite3": set(),
    "lite25": {"client.create_partition", "client.list_partitions", "client.list_databases", "client.create_database",
               "client.drop_database", "orm.create_index", "orm.create_alias", "orm.drop_alias"},
    "m23": {"client.hybrid_search", "orm.hybrid_search"},
}  # fmt: skip
"""What fails directly too. Searching in a collection that is dropped fails everywhere, as it should."""


async def test_the_newest_client_gets_through_a_collections_life(engine: Engine, sdks: None) -> None:
    report = await sdk.run("pymilvus30", "milvus_roundtrip", _job(engine.uri, "life"))

    assert set(report.errors) == ABSENT[engine.kind] | {"client.search_unknown"}
    assert report["client.search_unknown"].code == 100
    assert report["client.search"].saw[0] == [3, "acme: cat"]
    assert report["client.query_after_delete"].saw == [
        [1, "acme: ant (second)"],
        [2, "acme: bee (second)"],
        [4, "acme: dog"],
    ]


async def test_only_2_3_5_keeps_deletes_inside_a_partition(engine: Engine, sdks: None) -> None:
    report = await sdk.run("pymilvus30", "milvus_roundtrip", _job(engine.uri, "partitions", skip=["orm"]))

    survived = report["client.query_other_partition"].saw == [[1, "acme: ant (second)"]]
    assert survived == (engine.kind == "m23")
    # Lite 2.5.1 answers as if no partition had been named.
    ids = {key for key, _ in report["client.query_partition"].saw}
    assert ids == ({1, 2, 4, 101, 102} if engine.kind == "lite25" else {101, 102})


async def test_the_recorder_sees_the_calls_and_changes_none(lite3: Engine, sdks: None) -> None:
    with recording(lite3.address) as recorder:
        report = await sdk.run("pymilvus23", "milvus_roundtrip", _job(f"http://{recorder.address}", "recorded"))

    assert set(report.errors) == {"client.search_unknown"}
    assert recorder.methods["Insert"] == 4
    assert recorder.methods["Upsert"] == 2
    # It is by DescribeCollection that the SDKs ask whether a collection is there.
    assert recorder.methods["HasCollection"] == 0


def test_an_engine_leads_a_process_group_of_its_own(lite25: Engine) -> None:
    assert os.getpgid(lite25.pid) == lite25.pid


def _job(uri: str, collection: str, skip: list[str] | None = None) -> dict[str, object]:
    return {"uri": uri, "token": "root:Milvus", "collection": collection, "tenant_marker": "acme", "skip": skip or []}
