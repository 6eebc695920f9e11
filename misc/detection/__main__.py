"""Find the people in photos: python -m misc.detection DETECTOR IMAGE_ROOT --out BOXES.json

Writes their boxes in COCO's format. `main.py --evaluate` takes them as `eval.detections`.

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
    from misc.detection.photos import Photo

logger = logging.getLogger(__name__)


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.detection", description=__doc__)
    add = parser.add_argument
    add("detector", type=path_text, metavar="DETECTOR", help="hog, a model folder, or a hub id")
    add("image_root", type=Path, metavar="IMAGE_ROOT", help="folder of the photos, searched recursively")
    add("--out", type=Path, required=True, metavar="BOXES.json", help="the file to write")
    add("--min-score", type=float, metavar="S", help="least score of a box (hog: 0.4, others: 0.5)")
    add("--min-height", type=float, default=32, metavar="PIXELS", help="least height of a box (32)")
    overlap = "largest overlap (intersection over union) with a box of a higher score (0.5)"
    add("--max-overlap", type=float, default=0.5, metavar="SHARE", help=overlap)
    add("--device", default="auto", help="as misc.device (auto)")
    return parser


def run(flags: argparse.Namespace) -> None:
    """Detect and write; raises UserError."""
    if flags.out.suffix.lower() != ".json":
        raise UserError(f"--out: expected a file name in .json, found '{flags.out}'")
    if not 0 <= flags.max_overlap <= 1:
        raise UserError(f"--max-overlap: expected 0 to 1, found {flags.max_overlap}")
    from misc.detection.boxes import Limits
    from misc.detection.detectors import load_detector
    from misc.detection.photos import people_in
    from misc.process.device import start_device
    from misc.process.durable import replacing
    from misc.process.logs import start_logging
    from misc.search.indexing.walk import find_images

    start_logging()
    if not flags.image_root.is_dir():
        raise UserError(f"IMAGE_ROOT: '{flags.image_root}' is not a folder; name the folder of the photos")
    if not os.access(flags.out.absolute().parent, os.W_OK):
        raise UserError(f"--out: '{flags.out}' cannot be written; name a file in a writable folder")
    skipped: dict[str, str] = {}
    paths = sorted(file.path for file in find_images(flags.image_root, None, skipped))
    if not paths:
        raise UserError(f"IMAGE_ROOT: no image below '{flags.image_root}'")
    device, _ = start_device(flags.device, "auto")
    detector = load_detector(flags.detector, str(device))
    limits = Limits(flags.min_score, flags.min_height, flags.max_overlap)
    found = people_in(flags.image_root, paths, detector, limits)
    bar = tqdm(found, "detecting", len(paths), leave=False, unit="photo", disable=not sys.stderr.isatty())
    document = as_coco(bar, paths, skipped)
    with replacing(flags.out) as file:
        file.write(json.dumps(document).encode("utf-8", "surrogateescape"))
    images, annotations = document["images"], document["annotations"]
    without = len(images) - len({item["image_id"] for item in annotations})
    logger.info(f"{flags.out}: {len(annotations)} people in {len(images)} photos; {without} have none")
    if skipped:
        first = min(skipped)
        logger.warning(f"{len(skipped)} files or folders were left out (first: '{first}' {skipped[first]})")


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: run(build_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
