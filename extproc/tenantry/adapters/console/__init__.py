"""The console: a read-only page for operators at `GET /console` of the admin listener.

`page` has the routes, `doors` who may come in, `document` puts together what is shown, from `tenants`, `versions`,
`usage` (asked of the ledger) and `verdicts` (read from the state stores). `static` is what the browser gets; it asks
`GET /console/data` once a second. Nothing here changes anything of the platform.
"""
