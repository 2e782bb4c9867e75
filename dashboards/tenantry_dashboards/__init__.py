"""Grafana dashboards as code: `python -m tenantry_dashboards` writes them to `../generated`, one JSON file each.

A module per dashboard says which panels it has; `panels` makes panels, `frame` gives them their places, variables and
links, `queries` spells PromQL. `lint` holds what comes out against the metrics that exist (`catalogue`).
"""
