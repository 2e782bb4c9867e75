"""Quotas at work.

`desk` admits requests and settles them, `accounts` asks the shared store and does without it when it is lost, `metrics`
and `routes` tell of it.
"""
