"""The commands of `python -m misc.search`: the flags of each, and what it does."""
