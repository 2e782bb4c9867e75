"""tenantry's plugin for vLLM, installed into a vLLM image.

So far it knows how the sidecar's stamp arrives at the engine's scheduler (`stamp`); metering builds on it. It imports
tenantry.core, and nothing of vLLM at import time.
"""
