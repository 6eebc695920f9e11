"""Street photos and videos of several drawn persons.

Reading order: `view` (how a camera sees the ground), `standing` (who stands where), `compose` (pixels, boxes
and what is visible), `plan` (who is in which photo), `write` (files), `prw` (the layout of PRW-TBPS),
`videos`.
"""
