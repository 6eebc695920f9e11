"""The embedded data set: rendered pedestrians seen by several cameras, captioned in four languages.

Reading order: `domains` (what differs between sets), `attributes` (identities), `camera` (the conditions of
an image), `render` (pixels), `captions` (text), `write` (files).
"""
