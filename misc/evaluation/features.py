"""Saved features: test sets encoded once, to be scored, fused and re-ranked without model or images.

A folder holds `features.safetensors` (SET/images (G, E), SET/texts/LANGUAGE (Q, E), fp32, normalised) and
`features.json`: {"format", "weights": {"file", "sha256"}, "options": {"section.name": value, ...},
"sets": {SET: {"image_root", "images", "person_ids", "queries": {LANGUAGE: {"captions", "person_ids",
"image_indices"}}}}}.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from data.types import NOBODY, EvaluationSet, Queries
from misc.evaluation.evaluator import Encoded, Features
from misc.process.durable import replacing, write_text
from misc.process.failures import reason_of
from options import UserError
from text_utils.captions import clean_caption

logger = logging.getLogger(__name__)
INDEX, TENSORS, FORMAT = "features.json", "features.safetensors", 1
T = TypeVar("T")


@dataclass(frozen=True)
class SavedFeatures:
    """What a folder of features holds: its test sets, and the file of the weights they come from."""

    folder: Path
    weights: Path
    sets: dict[str, Encoded]

    @property
    def evaluation_sets(self) -> dict[str, EvaluationSet]:
        """The sets without their features."""
        return {name: encoded.evaluation_set for name, encoded in self.sets.items()}

    def on_device(self, device: torch.device) -> dict[str, Encoded]:
        """The sets, with their features on `device`."""
        return {name: replace(each, features=each.features.to(device)) for name, each in self.sets.items()}


def save_features(
    sets: Mapping[str, Encoded], folder: Path, weights: Path, options: Mapping[str, object]
) -> None:
    """Write the features of `sets`; the index comes last, so a folder that has one is whole.

    It records `weights`, what encoded them, and the `options` that they depend on, by "section.name".
    """
    identity = {"file": str(weights), "sha256": file_digest(weights)}
    tensors, index = {}, {}
    for name, encoded in sets.items():
        evaluation_set = encoded.evaluation_set
        tensors[f"{name}/images"] = encoded.features.images
        tensors |= {f"{name}/texts/{language}": rows for language, rows in encoded.features.texts.items()}
        index[name] = {
            "image_root": str(evaluation_set.image_root),
            "images": list(evaluation_set.images),
            "person_ids": evaluation_set.person_ids.tolist(),
            "queries": {
                language: {
                    "captions": list(queries.captions),
                    "person_ids": queries.person_ids.tolist(),
                    "image_indices": queries.image_indices.tolist(),
                }
                for language, queries in evaluation_set.queries.items()
            },
        }
    content = save({name: rows.cpu().contiguous() for name, rows in tensors.items()})
    with replacing(folder / TENSORS, lambda _: (folder / INDEX).unlink(missing_ok=True)) as file:
        file.write(content)
    record = {"format": FORMAT, "weights": identity, "options": dict(options), "sets": index}
    write_text(folder / INDEX, json.dumps(record, ensure_ascii=False) + "\n")


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes; of a folder's, those of its files by name one after another."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def load_features(folder: Path, named_by: str) -> SavedFeatures:
    """Read what `save_features` wrote, onto the CPU; `named_by` is the folder's flag or option, for errors.

    Raises:
        UserError: no such folder, or one that is damaged.
    """
    if not os.path.isfile(folder / INDEX):  # Path.is_file raises where a name is too long
        raise UserError(f"{named_by}: '{folder}' has no {INDEX}; give a folder that --save-features wrote")
    try:
        record = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        json.dumps(record, ensure_ascii=False).encode()  # raises for unpaired surrogates, which JSON may have
        _require(record["format"] == FORMAT, f"format {record['format']!r} is not {FORMAT}")
        tensors = load_file(folder / TENSORS)
        sets = {name: _encoded(name, entry, tensors) for name, entry in record["sets"].items()}
        _require(bool(sets), "no sets")
        saved = SavedFeatures(folder, Path(record["weights"]["file"]), sets)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as e:
        reason = reason_of(e)[:200]
        raise UserError(
            f"{named_by}: features in '{folder}' are damaged ({type(e).__name__}: {reason}); save them again"
        ) from e
    logger.info(f"features of {saved.weights} on {', '.join(sets)}, read from {folder}")
    return saved


def _encoded(name: str, entry: dict[str, Any], tensors: Mapping[str, Tensor]) -> Encoded:
    """A set of the index with its features; raises ValueError and the like unless all of it fits together."""
    images, person_ids = _list_of(str, entry["images"]), torch.tensor(_list_of(int, entry["person_ids"]))
    _require(len(images) == len(person_ids), f"set '{name}' has not as many images as persons")
    paths = map(PurePath, images)
    _require(not any(p.is_absolute() or ".." in p.parts for p in paths), "images outside the image root")
    queries, texts = {}, {}
    for language, part in entry["queries"].items():
        captions = _list_of(str, part["captions"])
        asked, described = (torch.tensor(_list_of(int, part[key])) for key in ("person_ids", "image_indices"))
        fits = len(captions) == len(described) and torch.equal(person_ids[described], asked)
        fits = fits and int(described.min()) >= 0 and int(asked.min()) > NOBODY
        _require(fits, f"captions, images and persons of set '{name}' in '{language}' do not belong together")
        queries[language] = Queries(captions, asked, described)
        texts[language] = _rows(tensors, f"{name}/texts/{language}", len(captions))
    features = Features(_rows(tensors, f"{name}/images", len(images)), texts)
    widths = {rows.shape[1] for rows in texts.values()}
    _require(widths == {features.images.shape[1]}, f"captions of set '{name}' are not as wide as its images")
    return Encoded(EvaluationSet(Path(entry["image_root"]), images, person_ids, queries), features)


def _require(fits: bool, otherwise: str) -> None:
    if not fits:
        raise ValueError(otherwise)


def _list_of(kind: type[T], values: object) -> list[T]:
    is_list = isinstance(values, list) and values and all(type(value) is kind for value in values)
    _require(is_list, f"expected a list of {kind.__name__}, found {str(values)[:40]}")
    return values


def _rows(tensors: Mapping[str, Tensor], name: str, count: int) -> Tensor:
    """The (count, E) features of that name; raises ValueError unless they are."""
    rows = tensors[name]
    fits = rows.dtype == torch.float32 and rows.ndim == 2 and len(rows) == count
    fits = fits and torch.allclose(rows.norm(dim=1), torch.ones(count), atol=1e-3)  # NaN is close to nothing
    _require(fits, f"'{name}' is not {count} rows of fp32 with norm 1")
    return rows


def fuse(parts: Sequence[tuple[float, Features]]) -> Features:
    """Features whose cosine similarity is the weighted mean of the parts' cosine similarities.

    They are concatenated, each times sqrt(weight / sum of the weights); widths may differ.
    """
    scales = [math.sqrt(weight / sum(weight for weight, _ in parts)) for weight, _ in parts]

    def joined(rows: Sequence[Tensor]) -> Tensor:
        return torch.cat([scale * part for scale, part in zip(scales, rows, strict=True)], dim=1)

    languages = parts[0][1].texts
    return Features(
        joined([part.images for _, part in parts]),
        {language: joined([part.texts[language] for _, part in parts]) for language in languages},
    )


def check_same_sets(evaluation_sets: Mapping[str, EvaluationSet], saved: SavedFeatures) -> None:
    """Raise UserError unless `saved` has all of these sets, with the same images, persons and captions.

    Captions are compared as TBPS-CLIP cleans them: models that read them cleaned otherwise can be fused.
    """
    for name, own in evaluation_sets.items():
        if name not in saved.sets:
            found = ", ".join(saved.sets)
            raise UserError(
                f"eval.fuse: '{saved.folder}' has no features of the set '{name}', only of {found}; save "
                "them with the same data.dataset and eval.test_sets"
            )
        other = saved.sets[name].evaluation_set
        where = f"'{saved.folder}', set '{name}'"
        _check_same(own.images, other.images, f"{where}, images")
        _check_same(own.person_ids.tolist(), other.person_ids.tolist(), f"{where}, persons of the images")
        for language, queries in own.queries.items():
            if language not in other.queries:
                raise UserError(f"eval.fuse: {where} has no captions in '{language}'; save them with it")
            ours, theirs = (
                [clean_caption(caption) for caption in each.captions]
                for each in (queries, other.queries[language])
            )
            _check_same(ours, theirs, f"{where}, captions in '{language}'")


def _check_same(ours: Sequence[object], theirs: Sequence[object], what: str) -> None:
    if len(ours) != len(theirs):
        found = f"{len(theirs)} in it, {len(ours)} in the set evaluated"
    else:
        differing = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
        if differing is None:
            return
        found = f"number {differing} is {theirs[differing]!r} in it, {ours[differing]!r} in the set evaluated"
    raise UserError(f"eval.fuse: {what}: {found}; fuse features of the same annotations")
