"""Protobuf stubs of our own subsets of the stores' messages; `make stubs` writes them from the .proto files."""
