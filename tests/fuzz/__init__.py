"""Hostile inputs for every program that reads files: python -m tests.fuzz (see `__main__.py`)."""
