"""Hostile inputs for every program that reads files of others: python -m tests.fuzz (see `__main__.py`)."""
