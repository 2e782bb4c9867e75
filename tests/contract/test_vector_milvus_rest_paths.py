"""Every path of REST v2 has a decision: the reviewed class of tests/data/milvus_methods.json, or one said here."""

import json
from pathlib import Path

import pytest
from tenantry.core.errors import ForbiddenError
from tenantry.core.vector.milvus_rest import OPERATIONS, PREFIX, milvus_rest_call
from tenantry_testing.milvus_rest import head, store_of

REVIEWED: dict[str, str] = json.loads((Path(__file__).parent.parent / "data" / "milvus_methods.json").read_text())[
    "rest_v2"
]

CLASS_OF = {"inject": "inject", "stamp": "stamp", "visible": "allow-if-collection-in-policy"}
"""The reviewed class that each policy stands for; other policies are deviations."""

OWN_ALONE = {
    "collections/create",
    "collections/drop",
    "collections/get_stats",
    "collections/list",
    "collections/load",
    "collections/release",
    "indexes/create",
    "indexes/drop",
    "indexes/list",
    "partitions/create",
    "partitions/drop",
    "partitions/get_stats",
    "partitions/has",
    "partitions/list",
    "partitions/load",
    "partitions/release",
}
"""Forbidden in the review, which knew shared collections alone; here they are open where the collection is the tenant's
own (layouts `database` and `collection`), as their namesakes of gRPC are. Where collections are shared they stay
forbidden; `collections/load` opens there too where the operator sets `loadAndFlush`.
"""


def test_the_table_has_every_path_once() -> None:
    assert len(REVIEWED) == 75
    assert {f"POST {PREFIX}{path}" for path in OPERATIONS} <= REVIEWED.keys()


@pytest.mark.parametrize("reviewed", REVIEWED)
def test_each_path_is_decided_as_it_was_reviewed(reviewed: str) -> None:
    method, path = reviewed.split(" ")
    name = path.removeprefix(PREFIX)
    assert method == "POST"
    assert path == PREFIX + name
    operation = OPERATIONS.get(name)
    if operation is not None and operation.policy in CLASS_OF:
        assert REVIEWED[reviewed] == CLASS_OF[operation.policy]
        for layout in ("database", "collection", "partition", "keyprefix"):
            assert milvus_rest_call(store_of(layout), head(name)) is not None
        return
    assert REVIEWED[reviewed] == "forbid"
    assert (operation is not None) == (name in OWN_ALONE)
    for layout in ("partition", "keyprefix"):
        with pytest.raises(ForbiddenError):
            milvus_rest_call(store_of(layout), head(name))
    for layout in ("database", "collection"):
        if operation is None:
            with pytest.raises(ForbiddenError):
                milvus_rest_call(store_of(layout), head(name))
        else:
            assert milvus_rest_call(store_of(layout), head(name)) is not None
