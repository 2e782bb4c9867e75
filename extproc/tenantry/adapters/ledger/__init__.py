"""The ledger: what every tenant used, written once and never lost. SQLite on one machine, PostgreSQL for a fleet.

`store` says what a ledger can do, `service` is its HTTP face (`tenantry ledger serve`), `export` sends entries on to
others' billing.
"""
