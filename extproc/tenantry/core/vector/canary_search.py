"""Searches of canary tenants: one for each vector field, whatever its kind."""

from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.canary_rows import PLACEHOLDER_TEXT, VECTORS, parameter, vector_bytes
from tenantry.core.vector.milvus_reads import BOOL_EXPR_V1
from tenantry.core.vector.operator import STRONG


def searchable(schema: pb.CollectionSchema) -> list[pb.FieldSchema]:
    """Return the fields that can be searched."""
    return [field for field in schema.fields if field.data_type in VECTORS]


def search_request(collection: str, field: pb.FieldSchema, limit: int) -> pb.SearchRequest:
    """Return a plain client's search for the nearest rows; by text, where a function of the engine makes vectors."""
    if field.is_function_output:
        kind, value = PLACEHOLDER_TEXT, b"v1"
    else:
        kind, value = field.data_type, vector_bytes(field.data_type, 1, parameter(field.type_params, "dim") or 0)
    placeholder = pb.PlaceholderValue(tag="$0", type=kind, values=[value])
    request = pb.SearchRequest(
        collection_name=collection,
        dsl_type=BOOL_EXPR_V1,
        placeholder_group=pb.PlaceholderGroup(placeholders=[placeholder]).SerializeToString(),
        nq=1,
        consistency_level=STRONG,
    )
    parameters = {"anns_field": field.name, "topk": str(limit), "params": "{}", "round_decimal": "-1"}
    for key, text in parameters.items():
        request.search_params.add(key=key, value=text)
    return request
