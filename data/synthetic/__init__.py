"""The embedded data set: rendered pedestrians seen by several cameras, captioned in four languages.

Reading order: `attributes` (who), `camera` (one image's circumstances), `render` (pixels), `captions`
(words), `write` (files).
"""
