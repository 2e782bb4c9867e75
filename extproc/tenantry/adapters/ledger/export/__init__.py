"""The export of usage to others' billing: an outbox beside the ledger, and what empties it.

`tables` is the outbox's place (SQLite, PostgreSQL), `collector` fills it from the ledger's entries, `outbox` hands out
what may be sent and books what became of it, `http` sends, `exporter` is the task that does all of it.
"""
