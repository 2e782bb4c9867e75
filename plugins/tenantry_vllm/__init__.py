"""tenantry's plugin for vLLM, installed into a vLLM image.

It knows how the sidecar's stamp arrives at the engine's scheduler (`stamp`), and ships usage records to the sidecars:
`outbox` decides (pure), `sidecar_http` posts, `sidecar_tls` secures what leaves the machine, `shipper` has the threads.
The stand-in engine ships with the same four. Metering comes next. It imports tenantry.core, and nothing of vLLM at
import time.
"""
