"""What this version of pymilvus knows of Milvus's API: methods with their request, messages with their fields.

Prints JSON: {version, methods: {name: request}, fields: {message: {field: number}}}; all that requests can hold.
"""

import json
import sys
import warnings

warnings.filterwarnings("ignore")

import pymilvus
from pymilvus.grpc_gen import milvus_pb2


def main():
    service = milvus_pb2.DESCRIPTOR.services_by_name["MilvusService"]
    fields = {}
    for method in service.methods:
        reach(method.input_type, fields)
    known = {
        "version": pymilvus.__version__,
        "methods": {method.name: method.input_type.full_name for method in service.methods},
        "fields": fields,
    }
    json.dump(known, sys.stdout)


def reach(message, fields):
    """Add the message and all that it can hold, at any depth."""
    if message.full_name in fields:
        return
    fields[message.full_name] = {field.name: field.number for field in message.fields}
    for field in message.fields:
        if field.message_type is not None:
            reach(field.message_type, fields)


if __name__ == "__main__":
    main()
