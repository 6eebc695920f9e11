"""Queries, and the images that answer them."""
