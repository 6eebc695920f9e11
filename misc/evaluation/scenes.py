"""Full-scene search: persons are ranked who were found in whole frames (Xiao et al., CVPR 2017).

Boxes in the frames of a gallery are ranked by cosine similarity. Of each place where the person is, the first
box in that order that overlaps it enough is a hit, and no other one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.scenes import Boxes, SceneSearch
from data.types import Box, Gallery
from misc.evaluation.evaluator import Encoded, shard
from misc.metrics import SceneFigures
from misc.process import distributed

METRICS = ("R1", "R5", "R10", "mAP", "recall")
CHUNK = 256  # queries scored at once
LEAST_OVERLAP = 0.5
SLACK = 10  # pixels

Floats = npt.NDArray[np.float64]
Places = Sequence[tuple[int, Box]]


def least_overlap(truth: Box) -> float:
    """The intersection over union that a box must have with a true one: less where that is small."""
    width, height = truth[2:]
    return min(LEAST_OVERLAP, width * height / ((width + SLACK) * (height + SLACK)))


def overlap(box: Box, other: Box) -> float:
    """The intersection over union of two boxes."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    return both / (box[2] * box[3] + other[2] * other[3] - both)


class Ranked:
    """The boxes that are ranked, by frame.

    Args:
        places: (number of the frame, box) of each.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.of_frame: dict[int, list[int]] = {}
        for row, (frame, _) in enumerate(places):
            self.of_frame.setdefault(frame, []).append(row)

    def rows(self, gallery: Gallery) -> npt.NDArray[np.int64]:
        """The boxes in the frames of a gallery, ascending."""
        if gallery.frames is None:
            return np.arange(len(self.places))
        frames = sorted(set(gallery.frames))
        return np.sort([row for frame in frames for row in self.of_frame.get(frame, ())]).astype(np.int64)

    def hits(self, scores: Floats, truths: Places) -> list[int]:
        """The boxes that are hits. In the order of their scores (N,), equal ones in their own order, each
        takes the place in its frame that it overlaps most, of those that no box has taken.
        """
        found = []
        for frame in dict.fromkeys(frame for frame, _ in truths):
            remaining = [box for number, box in truths if number == frame]
            rows = self.of_frame.get(frame, [])
            for row in sorted(rows, key=lambda row: -scores[row]):
                own = self.places[row][1]
                fitting = [box for box in remaining if overlap(own, box) >= least_overlap(box)]
                if fitting:
                    remaining.remove(max(fitting, key=lambda box: overlap(own, box)))
                    found.append(row)
        return found


def query_figures(scores: Floats, ranked: Ranked, gallery: Gallery) -> list[float]:
    """The figures of a query, as `METRICS`; NaN where its person is nowhere in the gallery.

    With H hits in G places, R@k tells whether one of them is among the k best boxes, equal scores in their
    order. AP = (sum over the hits of the share of hits among the boxes with at least its score) / G, that is
    the average precision of the ranking times the recall, H / G.

    Args:
        scores: (N,) of all boxes.
    """
    num_places = len(gallery.truths)
    if not num_places:
        return [float("nan")] * len(METRICS)
    rows = ranked.rows(gallery)
    hits = ranked.hits(scores, gallery.truths)
    if not hits:
        return [0.0] * len(METRICS)
    own, of_hits = scores[rows], np.sort(scores[hits])
    num_hits_above = len(hits) - np.searchsorted(of_hits, of_hits)
    num_above = (own >= of_hits[:, None]).sum(axis=1)
    best = min(row for row in hits if scores[row] == of_hits[-1])
    rank = 1 + int((own > of_hits[-1]).sum()) + int((own[rows < best] == of_hits[-1]).sum())
    precision = float((num_hits_above / num_above).sum()) / num_places
    return [*(float(rank <= k) for k in (1, 5, 10)), precision, len(hits) / num_places]


def scene_results(
    search: SceneSearch, encoded: Encoded, detected: Encoded | None
) -> dict[str, dict[str, dict[str, SceneFigures]]]:
    """{language: {gallery: {"annotated" or "detected": figures in percent}}}.

    Args:
        encoded: the test split, whose gallery are the annotated boxes.
        detected: the detected boxes; None: there are none.
    """
    features = {"annotated": _features(encoded, search.boxes["annotated"])}
    if detected:
        features["detected"] = _features(detected, search.boxes["detected"])
    return {
        language: {
            gallery: {
                kind: _score(texts, images, encoded, language, Ranked(search.boxes[kind].places), of_persons)
                for kind, images in features.items()
            }
            for gallery, of_persons in search.scenes.galleries.items()
        }
        for language, texts in encoded.features.texts.items()
    }


def _features(encoded: Encoded, boxes: Boxes) -> Tensor:
    """(N, E), of each box: boxes that are the same region have one image."""
    rows = {image: row for row, image in enumerate(encoded.evaluation_set.images)}
    return encoded.features.images[[rows[image] for image in boxes.images]]


def _score(
    texts: Tensor,
    images: Tensor,
    encoded: Encoded,
    language: str,
    ranked: Ranked,
    galleries: Mapping[int, Gallery],
) -> SceneFigures:
    persons = encoded.evaluation_set.queries[language].person_ids.tolist()
    mine, rows = list(shard(len(persons))), []
    for start in range(0, len(mine), CHUNK):
        part = mine[start : start + CHUNK]
        scores = (texts[part] @ images.T).double().cpu().numpy()
        nowhere = Gallery((), ())
        rows += [
            query_figures(of_query, ranked, galleries.get(persons[query], nowhere))
            for query, of_query in zip(part, scores, strict=True)
        ]
    own = torch.tensor(rows, dtype=torch.float64, device=texts.device).reshape(-1, len(METRICS))
    figures = distributed.gather_interleaved(own, len(persons))
    means = (figures.nanmean(dim=0) * 100).tolist()
    return {**dict(zip(METRICS, means, strict=True)), "num_queries": int((~figures[:, 0].isnan()).sum())}
