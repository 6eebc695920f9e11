"""Tar files in WebDataset's layout: members KEY.jpg and KEY.json or KEY.txt, one after another, are a sample.

KEY.json holds the fields of a record of CUHK-PEDES and its `split`, as `python -m data.shards` writes it, or
`caption` or `captions` alone; KEY.LANGUAGE.json those in another language. Without `id`, each image is a
person of its own. The split is otherwise what the file's name begins with, or train.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from data.images.contained import TAR, Member, read_member, tar_members
from data.images.decode import image_suffixes, is_hidden
from data.readers.web_captions import WebRecords
from data.records import MALFORMED, Report, pick_languages, read_record, read_split, split_of
from data.types import SPLITS, ByLanguage, Format, Record, language_name
from options import UserError

Part = TypeVar("Part")
NUMBER = re.compile(r"(\d+)(?!.*\d)")  # the last one in a name

Sample = dict[str, Member]  # {what follows the key: the member}
Read = dict[str, dict[str, list[Record]]]  # {split: {language: records}}


def recognises(path: Path, content: bytes, form: Format) -> bool:
    """Whether there are tar files."""
    return bool(files_of(path))


def files_of(path: Path) -> list[Path]:
    """The file itself, or those of a folder."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return [each for each in found if each.suffix.lower() == TAR and not is_hidden(each.name)]


def read(
    path: Path,
    content: bytes,
    form: Format,
    splits: Sequence[str],
    languages: Sequence[str] | None,
    report: Report,
) -> dict[str, ByLanguage]:
    """See `data.formats`. An index, where there is one, is read instead."""
    return choose(scan(files_of(path), report), splits, languages, path, report)


def choose(
    found: Mapping[str, Mapping[str, Part]],
    splits: Sequence[str],
    languages: Sequence[str] | None,
    path: Path,
    report: Report,
) -> dict[str, dict[str, Part]]:
    """What is wanted of what was found at `path`."""
    of_splits = {split: found.get(split, {}) for split in splits}
    wanted = pick_languages(languages, of_splits, path, report)
    return {
        split: {language: by_language[language] for language in wanted[split]}
        for split, by_language in of_splits.items()
    }


def scan(files: Sequence[Path], report: Report) -> Read:
    """The records in shards, in their order.

    Raises:
        UserError: a file that is damaged or missing among the numbered ones; a fault of a sample, unless
            `report` returns.
    """
    _check_numbers(files)
    web, found = WebRecords(), Read()
    for file in files:
        for where, image, item in _items(file, report):
            item = {"split": split_of(file), **item, "image": f"{file.name}/{image.offset}/{_last(image)}"}
            language = language_name(str(item.get("language", "en")))
            try:
                split = read_split(item, where)
            except UserError as error:
                report(MALFORMED, str(error))
                continue
            if "id" in item:
                record = read_record(item, "image", language, where, report)
            else:
                record = web.read(item, where, report)
            if record:
                found.setdefault(split, {}).setdefault(language, []).append(record)
    if files:
        web.log(files[0].parent)
    return {split: found[split] for split in SPLITS if split in found}


def _check_numbers(files: Sequence[Path]) -> None:
    """Raise UserError where the numbers of files that are otherwise named alike have a gap."""
    series: dict[tuple[str, str], dict[int, Path]] = {}
    for file in files:
        if match := NUMBER.search(file.stem):
            key = file.stem[: match.start()], file.stem[match.end() :]
            series.setdefault(key, {})[int(match[1])] = file
    for (before, after), numbered in series.items():
        for number in range(min(numbered), max(numbered)):
            if number not in numbered:
                digits = len(NUMBER.search(min(numbered.values()).stem)[1])
                name = f"{before}{number:0{digits}d}{after}{TAR}"
                raise UserError(
                    f"data.annotation_file: '{name}' is missing among the {len(numbered)} shards in "
                    f"'{files[0].parent}'. Complete the download"
                )


def _items(file: Path, report: Report) -> Iterator[tuple[str, Member, dict[str, object]]]:
    """The place, for messages, the image and the fields of each sample, in each language that it has."""
    try:
        samples = _samples(file, report)
        with file.open("rb", buffering=0) as stream:
            for key, sample in samples.items():
                where = f"'{file}' sample '{key}'"
                try:
                    image, texts = _parts(sample, where)
                    for suffix in texts:
                        yield where, image, _fields(read_member(stream, sample[suffix]), suffix, where)
                except UserError as error:
                    report(MALFORMED, str(error))
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"data.annotation_file: '{file}' cannot be read as a tar file ({' '.join(str(error).split())}). "
            "Download it again"
        ) from error


def _parts(sample: Sample, where: str) -> tuple[Member, list[str]]:
    """The image, and what follows the key in the names of its captions."""
    images = [member for suffix, member in sample.items() if f".{suffix}" in image_suffixes()]
    fields = [suffix for suffix in sample if suffix.split(".")[-1] == "json"]
    texts = fields or [suffix for suffix in sample if suffix == "txt"]
    if len(images) != 1 or not texts:
        found = "no .json or .txt" if len(images) == 1 else f"{len(images)} images"
        raise UserError(f"{where}: expected one image and its captions, found {found}")
    return images[0], texts


def _samples(file: Path, report: Report) -> dict[str, Sample]:
    """The members of each key. A name that occurs twice is reported, and its first member used."""
    samples: dict[str, Sample] = {}
    for member in tar_members(file):
        folder, _, name = member.name.rpartition("/")
        key, _, suffix = name.partition(".")
        if is_hidden(name):
            continue
        sample = samples.setdefault(f"{folder}/{key}" if folder else key, {})
        if suffix.lower() in sample:
            report(MALFORMED, f"'{file}' holds '{member.name}' twice")
        else:
            sample[suffix.lower()] = member
    return samples


def _fields(content: bytes, suffix: str, where: str) -> dict[str, object]:
    """The fields of a record. Raises UserError: neither JSON nor a text."""
    try:
        text = content.decode()
        item = {"captions": [text.strip()]} if suffix == "txt" else json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: its '.{suffix}' cannot be read ({error})") from error
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected fields and values, found {item!r:.40}")
    captions = item.get("captions", item.get("caption"))
    named = {"language": suffix[: -len(".json")]} if suffix.endswith(".json") else {}
    return {**item, **named, "captions": [captions] if isinstance(captions, str) else captions}


def _last(member: Member) -> str:
    return member.name.rpartition("/")[2]
