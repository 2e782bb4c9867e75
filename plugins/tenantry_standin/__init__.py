"""The stand-in engine: an OpenAI-compatible server without a model, to try tenantry without a GPU.

Pure and without a clock: `batching` (continuous batching), `prefix_cache`, `behaviour` (what a version does well or
badly), `text` (filler words), `bodies` and `answers` (OpenAI's shapes), `seen` (what arrived), `records` (what a usage
record says of an attempt). With a clock or I/O: `engine` plays the batching in real time, `metering` keeps its
accounts, `server` and `pages` speak HTTP, `__main__` is the command. It names itself a stand-in on every page, log
line, answer and usage record.
"""
