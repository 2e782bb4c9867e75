"""Shared state against real stores: SQLite files, and a redis-server started here."""
