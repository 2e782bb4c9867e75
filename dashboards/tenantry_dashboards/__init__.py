"""Grafana dashboards as code: `python -m tenantry_dashboards` writes them to `../generated`, one JSON file each.

A module per dashboard says which panels it has; `panels` makes panels, `frame` gives them their places, variables and
links, `queries` spells PromQL, `money` what it comes to. tests/unit/test_dashboards_lint.py holds what comes out
against the metrics that exist. Colours begin where the alerts of ../alerts.yaml do.
"""
