"""Tests through a real Envoy: what a client can send, what an upstream gets to see, what is left as evidence.

`upstream` is a model server that records every byte, `wire` the client for hand-made bytes, `wire_h2` its
HTTP/2 sibling, `harness` puts Envoy, sidecar and upstream together. Invariant numbers are ARCHITECTURE.md's.
"""
