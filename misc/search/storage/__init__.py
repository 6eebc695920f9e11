"""The files of an index: what it contains, how it is read, and how the one writer changes it."""
