"""Generates Envoy's configuration from the rules document: typed, deterministic, never by hand.

`bootstrap.bootstrap` makes the whole static configuration, `clusters.clusters` the file through
which Envoy learns of model versions while it runs; both return plain data that `json.dumps`
takes. envoy-data-plane, which gives the types, costs 0.4 s and 17 MB to import: `options`,
`names` and `binary` do without it, the other modules are imported where a configuration is made.

README.md beside this package gives the reason for each choice.
"""
