"""The demo: four tenants of three tiers and one that joins, the real `openai` client, a real Envoy, a minute.

Beside them, with stand-in engines, two rollouts under the load of light clients: a healthy candidate that keeps its
share, and a slow one that the guard takes back. And two tenants with look-alike documents in one Milvus, with plain
pymilvus, one of which tries to break out. All of it is metered, and billed by a ledger.

Plain data and pure functions: `scenario` (who asks what, and what must come of it), `upstream` (what an engine may see
of a request), `run` (what was recorded), `measure`, `measure_rollouts` and `measure_metering` (records to report),
`expectations`, `rollout_expectations` and `metering_expectations` (what must hold), `charts` and the `report_*` beside
it (report to a page, or to a terminal). With I/O: `rules_document`, `stack` (everything that is started and stopped),
`recorder` (what stands before an engine that keeps no record of its own), `observe` (reads the records), `bookkeeping`
(reads the ledger), `traffic`, `crowd` and `quota_story` (the clients), `live` (the table while it runs), `play` (the
order of events), `__main__` (the command).

Retrieval has modules of its own, beginning with `retrieval_`. Of them `retrieval_client`, `retrieval_attacks` and
`embedder` run in other environments, as programs of their own.
"""
