"""Export of checkpoints to other programs: python -m misc.export (see `__main__.py`)."""
