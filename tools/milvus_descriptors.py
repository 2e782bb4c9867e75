"""Write down Milvus's messages as an installed pymilvus has them.

    PYTHON tools/milvus_descriptors.py METHOD...

Runs in an environment with pymilvus (`python3 tools/env.py milvus30` prints its PYTHON), and needs nothing of ours.
Prints JSON: every method of every service with its messages, and every field of the messages that the named methods
can carry. `tests/data/milvus_descriptors.json` is such a list, as it was when the fields were reviewed;
`tests/contract/test_vector_milvus_wire.py` holds ours against it, and writes it anew as its docstring says.
"""

import json
import sys
from typing import Any

KINDS = {
    1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32", 8: "bool", 9: "string",
    11: "message", 12: "bytes", 13: "uint32", 14: "enum", 15: "sfixed32", 16: "sfixed64", 17: "sint32", 18: "sint64",
}  # fmt: skip
"""google/protobuf/descriptor.proto, FieldDescriptorProto.Type."""

PACKED = ("milvus.proto.schema.CollectionSchema", "milvus.proto.common.PlaceholderGroup")
"""Messages that travel inside others as bytes."""


def fields_of(message: Any) -> dict[str, str]:
    """Return each field's number and what it is: `4 expr: string`, `5 requests: repeated message NAME`."""
    found = {}
    for field in message.fields:
        kind = KINDS[field.type]
        if kind == "message":
            kind = f"message {field.message_type.full_name}"
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        found[str(field.number)] = f"{field.name}: {'repeated ' if repeated else ''}{kind}"
    return found


def reach(message: Any, found: dict[str, dict[str, str]]) -> None:
    """Put this message, and those in its fields, into `found`."""
    if message.full_name in found:
        return
    found[message.full_name] = fields_of(message)
    for field in message.fields:
        if field.message_type is not None:
            reach(field.message_type, found)


def main() -> None:
    """Print the list."""
    import pymilvus  # noqa: PLC0415  # only where it is installed
    from google.protobuf import descriptor_pool  # noqa: PLC0415
    from pymilvus.grpc_gen import milvus_pb2  # noqa: PLC0415

    methods: dict[str, list[str]] = {}
    messages: dict[str, dict[str, str]] = {}
    for service in milvus_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            methods[f"{service.name}/{method.name}"] = [method.input_type.full_name, method.output_type.full_name]
            if service.name == "MilvusService" and method.name in sys.argv[1:]:
                reach(method.input_type, messages)
                reach(method.output_type, messages)
    pool = descriptor_pool.Default()
    for name in PACKED:
        reach(pool.FindMessageTypeByName(name), messages)
    print(json.dumps({"pymilvus": pymilvus.__version__, "methods": methods, "messages": messages}, indent=1))


if __name__ == "__main__":
    main()
