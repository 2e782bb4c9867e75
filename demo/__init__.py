"""The demo: four tenants of three tiers and one that joins, the real `openai` client, a real Envoy, a minute.

Plain data and pure functions: `scenario` (who asks what, and what must come of it), `upstream`
(what an engine may see of a request), `run` (what was recorded), `measure` (records to report),
`charts` and `report_html` (report to a page), `report_text` (report to a terminal). With I/O:
`rules_document`, `stack` (everything that is started and stopped), `recorder` (what stands before
an engine that keeps no record of its own), `observe` (reads the records), `traffic` (the clients),
`live` (the table while it runs), `play` (the order of events), `__main__` (the command).
"""
