"""Sets made for pretraining, all of them training: captions written by models, mostly without persons.

A JSON file, or a folder of JSON files of one kind, whose captions of one image are joined:

    luperson-t     a list of {file_path, captions: [...]}
    luperson-mllm  an object {path of an image: caption}; the last part of the path is the image
    mals           a list of {image, caption, image_id, label: [...]}
    synth-pedes    a list of {id, file_path, captions: [...], attributes: [...], prompt_caption: [...]}
    ham-pedes      an object {path of an image: [captions]}
    webperson      a list of {path of an image: {caption1, caption2}}

Where there are no persons, each image is one of its own: they are numbered from 0 in order of appearance.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.images.decode import image_suffixes, is_hidden
from data.readers.json_files import parse_json
from data.readers.web_captions import WebRecords, only_english
from data.records import Report, read_bytes
from data.types import ByLanguage, Format, Record
from options import UserError

START = 1 << 20  # bytes of a file that tell its kind
WITH_PATHS = ("luperson-mllm", "ham-pedes")  # objects, by paths of images

Item = tuple[str, object]  # its place in the file, and the fields of a record or what stands there instead


def recognises(path: Path, content: bytes, form: Format) -> bool:
    """Whether the file, or the first JSON file of a folder, begins as those of this set do."""
    files = json_files(path)
    return bool(files) and kind_of(files[0]) == form.kind


def read(
    path: Path,
    content: bytes,
    form: Format,
    splits: Sequence[str],
    languages: Sequence[str] | None,
    report: Report,
) -> dict[str, ByLanguage]:
    """See `data.formats`. All is English, and training."""
    only_english(languages, path)
    records = {"en": list(_records(path, content, form.kind, report))} if "train" in splits else {}
    return {split: records if split == "train" else {} for split in splits}


def json_files(path: Path) -> list[Path]:
    """The file itself; of a folder, its JSON files."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.glob("*.json") if file.is_file() and not is_hidden(file.name))


def kind_of(path: Path) -> str | None:
    """Of those above, by the first item of a file; None: of none."""
    try:
        with path.open("rb") as file:
            start = file.read(START).decode("utf-8-sig", "ignore").lstrip()
        if start.startswith("["):
            item, _ = json.JSONDecoder().raw_decode(start, start.index("{"))
            return _kind_of_item(item)
        key, end = json.JSONDecoder().raw_decode(start, start.index('"'))
        value = start[end:].lstrip(" \t\r\n:")[:1]
    except (OSError, ValueError, RecursionError):
        return None
    is_object = start.startswith("{") and Path(key).suffix.lower() in image_suffixes()
    return {"[": "ham-pedes", '"': "luperson-mllm"}.get(value) if is_object else None


def _kind_of_item(item: dict[str, Any]) -> str | None:
    if item.keys() >= {"image", "caption", "image_id", "label"}:
        return "mals"
    if len(item) == 1 and isinstance(captions := next(iter(item.values())), dict):
        return "webperson" if "caption1" in captions else None
    if not item.keys() >= {"file_path", "captions"} or "split" in item:
        return None
    if "id" in item:
        return "synth-pedes" if "prompt_caption" in item else None
    return "luperson-t"


def _records(path: Path, content: bytes, kind: str, report: Report) -> Iterator[Record]:
    image_field = "file_path" if kind in ("luperson-t", "synth-pedes") else "image"
    records = WebRecords(image_field, has_persons=kind == "synth-pedes")
    for file in json_files(path):
        for place, item in _items(file, content or read_bytes(file), kind):
            if record := records.read(item, f"'{file}' {place}", report):
                yield record
    records.log(path)


def _items(path: Path, content: bytes, kind: str) -> Iterator[Item]:
    """Raises UserError where the file is damaged, or none of this kind."""
    document = parse_json(path, content, keeps_pairs=kind in WITH_PATHS)
    if (found := kind_of(path)) != kind:
        begins = f"as a file of {found} does" if found else f"with {content[:60].decode(errors='ignore')!r}"
        expected = f"expected one of {kind}. Give a file of this set, or a folder without other JSON files"
        raise UserError(f"data.annotation_file: '{path}' begins {begins}; {expected}")
    if kind in WITH_PATHS:
        for key, value in document:  # pairs: a path may occur twice
            image = key.rpartition("/")[2] if kind == "luperson-mllm" else key
            captions = [value] if isinstance(value, str) else value
            yield f"image {key!r:.60}", {"image": image, "captions": captions}
        return
    for number, item in enumerate(document):
        place = f"record {number}"
        if not isinstance(item, dict):
            yield place, item
        elif kind == "webperson":
            for image, of_image in item.items():
                captions = list(of_image.values()) if isinstance(of_image, dict) else of_image
                yield place, {"image": image, "captions": captions}
        elif kind == "mals":
            yield place, {"image": item.get("image"), "captions": [item.get("caption")]}
        else:
            names = ("file_path", "captions", "id") if kind == "synth-pedes" else ("file_path", "captions")
            yield place, {name: item[name] for name in names if name in item}
