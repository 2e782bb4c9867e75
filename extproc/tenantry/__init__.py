"""tenantry: every tenant a first-class citizen of a shared AI-serving platform.

`tenantry.core` decides (pure functions and state machines), `tenantry.adapters` do the I/O,
`tenantry.cli` puts them together. Nothing is imported here, so that a plugin which needs only
the core pays only for the core.
"""
