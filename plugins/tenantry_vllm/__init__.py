"""tenantry's plugin for vLLM, installed into a vLLM image: it meters what each request costs, and delivers the records.

| where | what |
|---|---|
| `plugin` | the entry point; what is changed in which of vLLM's processes |
| `_compat` | which vLLM fits, and the private interface of it that is used |
| `config` | the operator's environment variables |
| `middleware`, `stamp` | how the sidecar's stamp gets from HTTP headers to the scheduler |
| `scheduler`, `hooks`, `adapter` | from the scheduler's steps to tenantry.core.metering |
| `worker_clock`, `cold_start` | the workers' own clock and memory; what the start took |
| `delivery` | where records go |
| `shipper`, `outbox`, `sidecar_http`, `sidecar_tls` | at once to every sidecar |
| `spool*`, `ledger_lane` | through a spool on disk to the ledger |
| `board`, `metrics` | how it stands, on vLLM's own `/metrics` |
| `gate` | no new requests while their records could not be kept |

The stand-in engine ships with the same `shipper`. Of all this only `scheduler` imports vLLM at import time. The rest
needs tenantry.core and msgspec, which vLLM brings; `metrics`, once it serves, vLLM's prometheus_client.
"""
