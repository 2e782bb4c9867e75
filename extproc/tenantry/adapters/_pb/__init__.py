"""Protobuf stubs of our own subset of Envoy's messages; `make stubs` writes them from wire.proto."""
