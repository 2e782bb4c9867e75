"""tenantry's plugin for vLLM, installed into a vLLM image; it imports tenantry.core and never vLLM's own packages
at import time.

So far it knows how the sidecar's stamp arrives at the engine's scheduler (`stamp`); metering builds on it.
"""
