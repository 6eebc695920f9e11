"""Images inside Arrow and Parquet files: the path `FILE/ROW` names that of a row, counted from 0."""

from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

SUFFIXES = {".arrow", ".parquet"}
IMAGE = "image"  # the column: bytes, or {bytes, path} as Hugging Face's data sets have it


def place_of(path: Path) -> tuple[Path, int] | None:
    """The file and the row, of a path that names a row."""
    if path.parent.suffix.lower() in SUFFIXES and path.name.isdecimal() and path.parent.is_file():
        return path.parent, int(path.name)
    return None


def read_image(file: Path, row: int) -> bytes:
    """The file of an image. Raises OSError where there is none, or `file` is damaged."""
    try:
        if file.suffix.lower() == ".arrow":
            value = arrow_table(file)[IMAGE][row].as_py()
        else:
            value = _in_parquet(file, row)
    except (pa.ArrowException, IndexError, KeyError) as error:
        raise OSError(
            f"row {row} of '{file.name}' cannot be read: {' '.join(str(error).split()):.150}"
        ) from error
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes) or not content:
        raise OSError(f"row {row} of '{file.name}' holds no image")
    return content


def num_rows(file: Path) -> int:
    """Raises OSError or pyarrow.ArrowException where `file` is damaged."""
    if file.suffix.lower() == ".arrow":
        return arrow_table(file).num_rows
    return parquet_file(file).metadata.num_rows


@lru_cache(maxsize=256)
def arrow_table(file: Path) -> pa.Table:
    """Mapped, of either of Arrow's formats, files and streams."""
    source = pa.memory_map(str(file))
    try:
        return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()


@lru_cache(maxsize=256)
def parquet_file(file: Path) -> parquet.ParquetFile:
    """Mapped: processes that are forked share no position in it."""
    return parquet.ParquetFile(str(file), memory_map=True)


def _in_parquet(file: Path, row: int) -> object:
    metadata = parquet_file(file).metadata
    for number in range(metadata.num_row_groups):
        length = metadata.row_group(number).num_rows
        if row < length:
            return _row_group(file, number)[row].as_py()
        row -= length
    raise IndexError("there is no such row")


@lru_cache(maxsize=2)  # each may hold hundreds of images
def _row_group(file: Path, number: int) -> pa.ChunkedArray:
    return parquet_file(file).read_row_group(number, columns=[IMAGE], use_threads=False)[IMAGE]
