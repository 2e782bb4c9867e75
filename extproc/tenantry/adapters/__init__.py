"""Everything that touches the world: gRPC, files, clocks, sockets, metrics, logs.

Adapters turn what they receive into values of `tenantry.core` and carry out what it decides.
They never decide themselves; none of them knows another but through the composition in
`sidecar.py` and `cli.py`.
"""
