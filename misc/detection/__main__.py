"""Find the people in photos, or follow them in a video: python -m misc.detection DETECTOR SOURCE --out FILE

SOURCE a folder of photos: writes their boxes in COCO's format, FILE.json, which `main.py --evaluate` takes as
`eval.detections`. SOURCE a video: writes tracks as MOT has them, FILE.txt, a line for each box: frame, track,
left, top, width, height, score, 1, 1, where frame n is that of the video at (n - 1) / average rate seconds.

DETECTOR is "hog" (OpenCV's, nothing to download), or a model of object detection of transformers: its folder,
or its id on the hub, such as ustc-community/dfine-small-coco.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from misc.cli import Parser, exit_status, path_text
from options import UserError

if TYPE_CHECKING:
    from misc.detection.boxes import Limits
    from misc.detection.detectors import Detector
    from misc.detection.photos import Photo

logger = logging.getLogger(__name__)


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.detection", description=__doc__)
    add = parser.add_argument
    add("detector", type=path_text, metavar="DETECTOR", help="hog, a model folder, or a hub id")
    add("source", type=Path, metavar="SOURCE", help="folder of photos, searched recursively, or a video")
    add("--out", type=Path, required=True, metavar="FILE", help="the file to write, .json or .txt")
    add("--min-score", type=float, metavar="S", help="least score of a box (hog: 0.4, others: 0.5)")
    add("--min-height", type=float, default=32, metavar="PIXELS", help="least height of a box (32)")
    overlap = "largest overlap (intersection over union) with a box of a higher score (0.5)"
    add("--max-overlap", type=float, default=0.5, metavar="SHARE", help=overlap)
    add("--every", type=float, default=0.5, metavar="SECONDS", help="of a video, between two frames (0.5)")
    add("--device", default="auto", help="as misc.device (auto)")
    return parser


def run(flags: argparse.Namespace) -> None:
    """Detect and write; raises UserError."""
    if not flags.source.exists():
        raise UserError(f"SOURCE: '{flags.source}' does not exist; name a folder of photos, or a video")
    suffix = ".json" if flags.source.is_dir() else ".txt"
    if flags.out.suffix.lower() != suffix:
        kind = "a folder of photos" if flags.source.is_dir() else "a video"
        raise UserError(f"--out: expected a file name in {suffix} for {kind}, found '{flags.out}'")
    if not os.access(flags.out.absolute().parent, os.W_OK):
        raise UserError(f"--out: '{flags.out}' cannot be written; name a file in a writable folder")
    from misc.detection.boxes import Limits, check_limits

    check_limits(flags.min_score, flags.min_height, flags.max_overlap)
    from misc.detection.detectors import load_detector
    from misc.process.device import start_device
    from misc.process.durable import replacing
    from misc.process.logs import start_logging

    start_logging()
    device, _ = start_device(flags.device, "auto")
    detector = load_detector(flags.detector, str(device))
    limits = Limits(flags.min_score, flags.min_height, flags.max_overlap)
    if flags.source.is_dir():
        text = in_photos(flags.source, detector, limits)
    else:
        text = in_video(flags.source, detector, limits, flags.every)
    with replacing(flags.out) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
    logger.info(f"written to {flags.out}")


def in_photos(root: Path, detector: "Detector", limits: "Limits") -> str:
    """The people in the photos below a folder, in COCO's format."""
    from misc.detection.photos import people_in
    from misc.search.indexing.walk import find_images

    skipped: dict[str, str] = {}
    paths = sorted(file.path for file in find_images(root, None, skipped))
    if not paths:
        raise UserError(f"SOURCE: no image below '{root}'")
    found = people_in(root, paths, detector, limits)
    document = as_coco(_with_bar(found, len(paths), "photo"), paths, skipped)
    images, annotations = document["images"], document["annotations"]
    without = len(images) - len({item["image_id"] for item in annotations})
    logger.info(f"{len(annotations)} people in {len(images)} photos; {without} have none")
    if skipped:
        first = min(skipped)
        logger.warning(f"{len(skipped)} files or folders were left out (first: '{first}' {skipped[first]})")
    return json.dumps(document)


def as_coco(photos: Iterable["Photo"], paths: Sequence[str], skipped: dict[str, str]) -> dict[str, list]:
    """The document of COCO's format; the reasons of photos that cannot be read are added to `skipped`."""
    images, annotations = [], []
    for photo in photos:
        if photo.problem:
            skipped[paths[photo.number]] = photo.problem
            continue
        width, height = photo.size
        images.append(
            {"id": photo.number, "file_name": paths[photo.number], "width": width, "height": height}
        )
        for *box, score in photo.boxes.tolist():
            item = {"id": len(annotations), "image_id": photo.number, "category_id": 1}
            box = [round(number, 2) for number in box]
            annotations.append({**item, "bbox": box, "area": box[2] * box[3], "score": round(score, 6)})
    people = [{"id": 1, "name": "person"}]
    return {"images": images, "annotations": annotations, "categories": people}


def in_video(path: Path, detector: "Detector", limits: "Limits", every: float) -> str:
    """The tracks of the people in a video, a line of MOT for each box."""
    from misc.detection.boxes import kept
    from misc.detection.tracks import Motion, Tracker
    from misc.detection.video import sampled_frames

    tracker, lines, num_frames, tracks = Tracker(Motion.at(every)), [], 0, set[int]()
    for frame in _with_bar(sampled_frames(path, every), None, "frame"):
        (found,) = detector.detect([frame.image])
        boxes = kept(found, frame.image.size, limits, detector.min_score)
        numbers = tracker.update(frame.time, boxes, size=frame.image.size)
        num_frames += 1
        tracks.update(numbers)
        for number, (*box, score) in zip(numbers, boxes.tolist(), strict=True):
            shown = ",".join(f"{side:.2f}" for side in box)
            lines.append(f"{frame.number},{number + 1},{shown},{score:.4f},1,1\n")
    if not frame.is_sure:
        logger.warning(
            f"'{path}': its frames are not evenly spaced; they are numbered by their times and the average "
            "rate, and may be others"
        )
    logger.info(f"{len(lines)} boxes of {len(tracks)} tracks in {num_frames} frames")
    return "".join(lines)


def _with_bar(steps: Iterable, total: int | None, unit: str) -> Iterable:
    hide = not sys.stderr.isatty()
    return tqdm(steps, "detecting", total, leave=False, unit=unit, disable=hide)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: run(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
