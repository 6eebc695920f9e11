"""The web page of an index."""
