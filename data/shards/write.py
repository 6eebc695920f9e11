"""Writing shards: the records of any data set and their images, in tar files."""

import io
import json
import random
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from tqdm import tqdm

from data.annotations import check_bad_images
from data.columns.records import Records
from data.columns.splits import Columns
from data.columns.stored import Found
from data.images.decode import BadImageError, image_content, load_image
from data.images.transforms import resize
from data.readers.shards import scan
from data.records import REWRITES, raise_fault
from data.shards.index import NAME, VERSION, read_index, write_index
from data.types import Record
from misc.process.durable import replacing, write_text
from misc.process.workers import in_processes
from options import UserError


@dataclass(frozen=True)
class Shape:
    """How shards are written.

    Attributes:
        size: (height, width) that images are resized to, as training resizes them; None: the images' files
            as they are.
        quality: of JPEG, 1 to 100, of images that are resized.
        num_images: of a shard; the last one of a split may have fewer.
        seed: of the order of the training images.
        skip: whether images that cannot be read are left out.
    """

    size: tuple[int, int] | None = None
    quality: int = 95
    num_images: int = 10_000
    seed: int = 0
    skip: bool = False


@dataclass(frozen=True)
class Shard:
    """One to be written: the same images in each language."""

    file: Path
    split: str
    first: int  # number of its first image in the split
    records: Mapping[str, Records]


def write_shards(
    found: Found, image_root: Path, out: Path, shape: Shape, workers: int = 1, progress: bool = False
) -> int:
    """Write the shards that are not there yet, and their index. A shard is a function of its images and of
    `shape`: a run that was killed is continued, and ends with the same files.

    Returns:
        The number of images that were left out, as they cannot be read.

    Raises:
        UserError: an image that cannot be read, or with `shape.skip` more than a training may skip; `out`
            holds other files.
    """
    made = _made(found, shape)
    _claim(out, made)
    shards = [shard for split, languages in found.items() for shard in _plan(split, languages, out, shape)]
    tables: dict[str, dict[str, list[pa.Table]]] = {}
    bad: dict[str, list[str]] = {split: [] for split in found}
    write = partial(_write_shard, image_root, shape)
    with tqdm(total=len(shards), unit="shard", disable=not progress) as bar:
        for shard, (by_language, left_out) in zip(shards, in_processes(write, shards, workers), strict=True):
            for language, table in by_language.items():
                tables.setdefault(shard.split, {}).setdefault(language, []).append(table)
            bad[shard.split] += left_out
            bar.update()
    for split, images in bad.items():
        check_bad_images(images, len(next(iter(found[split].values()))))
    columns = {
        split: {language: Records(pa.concat_tables(parts), language) for language, parts in of_split.items()}
        for split, of_split in tables.items()
    }
    write_index(out, made, columns)
    return sum(map(len, bad.values()))


def _made(found: Found, shape: Shape) -> dict[str, object]:
    """What the shards depend on."""
    digests = {
        split: {language: records.digest() for language, records in by_language.items()}
        for split, by_language in found.items()
    }
    of_shape = {**vars(shape), "size": shape.size and list(shape.size)}
    return {"records": digests, **of_shape}


def _claim(out: Path, made: Mapping[str, object]) -> None:
    """Note in `out` what its shards are made of. Raises UserError: others are there."""
    content = read_index(out)
    if content is None and any(out.glob("*.tar")):
        raise UserError(f"--out: '{out}' holds tar files but no {NAME}; name an empty or new folder")
    if content is not None and content.get("made") != made:
        raise UserError(
            f"--out: '{out}' holds shards of other annotations or settings ({NAME}); name another folder"
        )
    if content is None:
        write_text(out / NAME, json.dumps({"version": VERSION, "made": made}) + "\n")


def _plan(split: str, languages: Columns, out: Path, shape: Shape) -> list[Shard]:
    """The shards of a split; training images in random order, so that neighbours are strangers."""
    number = len(next(iter(languages.values())))
    order = np.arange(number)
    if split == "train":
        order = np.array(random.Random(shape.seed).sample(range(number), number))
    return [
        Shard(
            out / f"{split}-{first // shape.num_images:05d}.tar",
            split,
            first,
            {name: of.take(order[first : first + shape.num_images]) for name, of in languages.items()},
        )
        for first in range(0, number, shape.num_images)
    ]


def _write_shard(image_root: Path, shape: Shape, shard: Shard) -> tuple[dict[str, pa.Table], list[str]]:
    """Write the shard unless it is there; returns its records as they are read from it, by language, and the
    images that were left out.
    """
    if not shard.file.exists():
        with replacing(shard.file) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
            _write_samples(tar, image_root, shape, shard)
    found = scan([shard.file], raise_fault).get(shard.split, {})
    first = next(iter(shard.records))
    images = shard.records[first].images()
    kept = {Path(record.image).stem for record in found.get(first, ())}
    left_out = [image for number, image in enumerate(images, shard.first) if _key(number) not in kept]
    return {language: Records.of(records, language).table for language, records in found.items()}, left_out


def _write_samples(tar: tarfile.TarFile, image_root: Path, shape: Shape, shard: Shard) -> None:
    for number, records in enumerate(zip(*shard.records.values(), strict=True), start=shard.first):
        try:
            suffix, content = _image(image_root / records[0].image, shape)
        except BadImageError:
            if shape.skip:
                continue
            raise
        _add(tar, f"{_key(number)}{suffix}", content)
        for record in records:
            name = "json" if record is records[0] else f"{record.language}.json"
            _add(tar, f"{_key(number)}.{name}", _fields(shard.split, record))


def _key(number: int) -> str:
    return f"{number:09d}"


def _image(path: Path, shape: Shape) -> tuple[str, bytes]:
    """The suffix and the content of an image's file. Raises BadImageError."""
    image = load_image(path)  # also of one that is copied: none is damaged
    if shape.size is None:
        content = image_content(path)
        with Image.open(io.BytesIO(content)) as file:
            suffix = path.suffix.lower() or f".{(file.format or 'jpg').lower()}"
        return suffix, content
    pixels = resize(torch.from_numpy(np.array(image)).permute(2, 0, 1), shape.size)
    stream = io.BytesIO()
    resized = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    resized.save(stream, "JPEG", quality=shape.quality, subsampling=0)
    return ".jpg", stream.getvalue()


def _fields(split: str, record: Record) -> bytes:
    """The record, as its reader takes it."""
    fields = {
        "split": split,
        "id": record.person_id,
        "file_path": record.image,
        "language": record.language,
        "captions": record.captions,
        "captions_bt": record.back_translations,
        REWRITES: record.rewrites,
    }
    kept = {name: value for name, value in fields.items() if value != () or name == "captions"}
    return json.dumps(kept, ensure_ascii=False).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Times, users and rights are the same in each file."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
