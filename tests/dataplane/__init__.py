"""Tests through a real Envoy: what a client can send, what an upstream gets to see, what is left as evidence.

`upstream` is a model server that records every byte, `wire` the client for hand-made bytes (`wire_h2` for HTTP/2),
`harness` puts Envoy, sidecar and upstream together, `processes` runs `tenantry` as a process of its own, `pki` makes
certificates and tokens. Invariant numbers are ARCHITECTURE.md's.
"""
