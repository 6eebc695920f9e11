"""Arrow and Parquet files with captions, and with images inside or paths of them: LUPerson-T, WebPerson.

A file, or a folder of such files (or of a folder `data` of them). Columns: `caption` or `captions` (a text or
a list of texts), or `caption1`, `caption2` and so on; `image`, with the image's file in it, or `image_path`;
`split`, which otherwise the file's name begins with, or is train. Each image is a person of its own.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from data.images.contained import IMAGE, TABLES, arrow_table, parquet_file
from data.images.decode import is_hidden
from data.readers.web_captions import WebRecords, only_english
from data.records import MALFORMED, Report, read_split, split_of
from data.types import ByLanguage, Format, Record
from misc.process.failures import reason_of
from options import UserError

BATCH = 1 << 14  # rows that are read at once
CAPTIONS = re.compile(r"captions?\d*")
PATH = "image_path"


def recognises(path: Path, content: bytes, form: Format) -> bool:
    """Whether there are files with these suffixes."""
    return bool(files_of(path))


def files_of(path: Path) -> list[Path]:
    """The file itself, or those of a folder."""
    if not path.is_dir():
        return [path] if path.suffix.lower() in TABLES else []
    found = [each for folder in (path, path / "data") for each in sorted(folder.glob("*"))]
    return [each for each in found if each.suffix.lower() in TABLES and not is_hidden(each.name)]


def read(
    path: Path,
    content: bytes,
    form: Format,
    splits: Sequence[str],
    languages: Sequence[str] | None,
    report: Report,
) -> dict[str, ByLanguage]:
    """See `data.formats`. All is English."""
    only_english(languages, path)
    found: dict[str, list[Record]] = {split: [] for split in splits}
    records, folder = WebRecords(), path if path.is_dir() else path.parent
    for file in files_of(path):
        for row, item in enumerate(_rows(file, file.relative_to(folder).as_posix())):
            where = f"'{file}' row {row}"
            try:
                split = read_split(item, where)
            except UserError as error:
                report(MALFORMED, str(error))
                continue
            if split in found and (record := records.read(item, where, report)):
                found[split].append(record)
    records.log(path)
    return {split: {"en": of_split} if of_split else {} for split, of_split in found.items()}


def _rows(file: Path, name: str) -> Iterator[dict[str, object]]:
    """{image, captions, split} of each row; the images inside are not read.

    Raises:
        UserError: a damaged file, or one without captions or images.
    """
    is_arrow = file.suffix.lower() == ".arrow"
    try:
        schema = arrow_table(file).schema if is_arrow else parquet_file(file).schema_arrow
        columns = [column for column in schema.names if CAPTIONS.fullmatch(column)]
        holds_images = IMAGE in schema.names and not pa.types.is_string(schema.field(IMAGE).type)
        paths = () if holds_images else [column for column in (PATH, IMAGE) if column in schema.names][:1]
        if not columns or not (holds_images or paths):
            expected = f"caption, captions or caption1, and {IMAGE} or {PATH}"
            raise UserError(
                f"'{file}': expected the columns {expected}, found {', '.join(schema.names):.200}"
            )
        read = [*columns, *paths, *(["split"] if "split" in schema.names else [])]
        batches = (
            arrow_table(file).select(read).to_batches(max_chunksize=BATCH)
            if is_arrow
            else parquet_file(file).iter_batches(BATCH, columns=read)
        )
        for number, row in enumerate(row for batch in batches for row in _checked(batch).to_pylist()):
            given = [row[column] for column in columns]
            captions = [text for each in given for text in (each if isinstance(each, list) else [each])]
            image = f"{name}/{number}" if holds_images else row[paths[0]]
            yield {"image": image, "captions": captions, "split": row.get("split", split_of(file))}
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = reason_of(error)
        raise UserError(f"data.annotation_file: '{file}' cannot be read ({reason:.150})") from error


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same; raises ArrowInvalid where it is damaged, which reading it may not survive."""
    batch.validate(full=True)
    return batch
