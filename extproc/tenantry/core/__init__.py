"""Decisions, and nothing else: no I/O, no clock, no threads, no logging, no randomness.

Whatever a function here needs to know arrives as an argument. It imports the standard library
and msgspec only; `make check` enforces that (import-linter, and a test that imports the package
in a fresh interpreter and lists what was loaded).
"""
