"""What the parts of the code take, in time and memory; `python -m misc.benchmark`, or `make bench`."""
