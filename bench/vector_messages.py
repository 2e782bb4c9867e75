"""Requests to Milvus as its SDK would send them, made from a seed; used by the vector bench."""

import random
import struct

from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.grpc_frame import write_message

COLLECTION = "notes"
FILTER = 'price >= 10 and category in ["a", "b"]'
INT64, VARCHAR, FLOAT_VECTOR = 5, 21, 101


class Messages:
    """Requests about a collection with `dim` floats a row; equal seeds make equal bytes."""

    def __init__(self, seed: int, dim: int = 768) -> None:
        self._random = random.Random(seed)
        self.dim = dim

    def create(self) -> bytes:
        """Return a CreateCollection."""
        schema = pb.CollectionSchema(name=COLLECTION)
        schema.fields.add(name="id", data_type=INT64, is_primary_key=True)
        vector = schema.fields.add(name="vec", data_type=FLOAT_VECTOR)
        vector.type_params.add(key="dim", value=str(self.dim))
        for name, kind in (("price", INT64), ("category", VARCHAR), ("text", VARCHAR)):
            field = schema.fields.add(name=name, data_type=kind)
            if kind == VARCHAR:
                field.type_params.add(key="max_length", value="512")
        request = pb.CreateCollectionRequest(
            collection_name=COLLECTION, schema=schema.SerializeToString(), shards_num=1
        )
        return write_message(request.SerializeToString())

    def index(self) -> bytes:
        """Return a CreateIndex on the vectors, of a kind that all engines have."""
        request = pb.CreateIndexRequest(collection_name=COLLECTION, field_name="vec", index_name="vec")
        for key, value in (("index_type", "FLAT"), ("metric_type", "L2")):
            request.extra_params.add(key=key, value=value)
        return write_message(request.SerializeToString())

    def load(self) -> bytes:
        """Return a LoadCollection."""
        return write_message(pb.LoadCollectionRequest(collection_name=COLLECTION).SerializeToString())

    def insert(self, rows: int, first: int = 0) -> bytes:
        """Return an Insert of `rows` rows with primary keys from `first` on."""
        request = pb.InsertRequest(collection_name=COLLECTION, num_rows=rows)
        for name in ("id", "price"):
            request.fields_data.add(type=INT64, field_name=name).scalars.long_data.data.extend(
                range(first, first + rows)
            )
        vectors = request.fields_data.add(type=FLOAT_VECTOR, field_name="vec").vectors
        vectors.dim = self.dim
        vectors.float_vector.data.extend(self._random.random() for _ in range(rows * self.dim))
        for name, texts in (("category", "abc"), ("text", ("a note", "another note"))):
            column = request.fields_data.add(type=VARCHAR, field_name=name)
            column.scalars.string_data.data.extend(texts[row % len(texts)] for row in range(rows))
        return write_message(request.SerializeToString())

    def search(self, queries: int = 10) -> bytes:
        """Return a Search with this many query vectors and a filter."""
        values = [
            struct.pack(f"<{self.dim}f", *(self._random.random() for _ in range(self.dim))) for _ in range(queries)
        ]
        group = pb.PlaceholderGroup(
            placeholders=[pb.PlaceholderValue(tag="$0", type=FLOAT_VECTOR, values=values)]
        ).SerializeToString()
        request = pb.SearchRequest(
            collection_name=COLLECTION, dsl=FILTER, dsl_type=1, placeholder_group=group, nq=queries,
            output_fields=["text"],
        )  # fmt: skip
        parameters = {"anns_field": "vec", "topk": "10", "params": "{}", "metric_type": "L2", "round_decimal": "-1"}
        for key, value in parameters.items():
            request.search_params.add(key=key, value=value)
        return write_message(request.SerializeToString())

    def query(self) -> bytes:
        """Return a Query with a filter."""
        request = pb.QueryRequest(collection_name=COLLECTION, expr=FILTER, output_fields=["text"])
        request.query_params.add(key="limit", value="10")
        return write_message(request.SerializeToString())
