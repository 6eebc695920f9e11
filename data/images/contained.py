"""Images inside other files: the path `FILE/NAME` is that of a member of a tar file, or of a row, counted
from 0, of an Arrow or Parquet file.
"""

import os
import tarfile
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

TABLES = {".arrow", ".parquet"}
SUFFIXES = TABLES | {".tar"}
END = tarfile.BLOCKSIZE  # zeros after the last member of a tar file
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow's format
IMAGE = "image"  # the column: bytes, or {bytes, path} as Hugging Face's data sets have it


def place_of(path: Path) -> tuple[Path, str] | None:
    """The file and the name, of a path that names something inside a file."""
    inside = path.parent.suffix.lower() in SUFFIXES and path.parent.is_file()
    return (path.parent, path.name) if inside else None


def read_image(file: Path, name: str) -> bytes:
    """The file of an image. Raises OSError where there is none, or `file` is damaged."""
    try:
        if file.suffix.lower() == ".tar":
            return _in_tar(file, name)
        row = int(name)
        value = (
            arrow_table(file)[IMAGE][row].as_py()
            if file.suffix.lower() == ".arrow"
            else _in_parquet(file, row)
        )
    except (pa.ArrowException, tarfile.TarError, LookupError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"'{name}' of '{file.name}' cannot be read: {reason:.150}") from error
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes) or not content:
        raise OSError(f"row {name} of '{file.name}' holds no image")
    return content


def names_in(file: Path) -> set[str]:
    """What a file holds. Raises OSError, tarfile.TarError or pyarrow.ArrowException where it is damaged."""
    if file.suffix.lower() == ".tar":
        return set(tar_members(file))
    is_arrow = file.suffix.lower() == ".arrow"
    number = arrow_table(file).num_rows if is_arrow else parquet_file(file).metadata.num_rows
    return {str(row) for row in range(number)}


@lru_cache(maxsize=64)
def tar_members(file: Path) -> dict[str, tuple[int, int]]:
    """{name: (offset, size)} of the regular files in a tar file that is not compressed.

    Raises OSError or tarfile.TarError: it is damaged, cut short, or holds a name twice.
    """
    found: dict[str, tuple[int, int]] = {}
    with tarfile.open(file, "r:") as tar:
        for member in filter(tarfile.TarInfo.isreg, tar):
            if member.name in found:
                raise OSError(f"'{file}' holds '{member.name}' twice")
            found[member.name] = (member.offset_data, member.size)
        with file.open("rb") as stream:
            if os.pread(stream.fileno(), END, tar.offset) != bytes(END):
                raise OSError(f"'{file}' was cut short")
    return found


def _in_tar(file: Path, name: str) -> bytes:
    offset, size = tar_members(file)[name]
    with file.open("rb") as stream:
        return os.pread(stream.fileno(), size, offset)


@lru_cache(maxsize=256)
def arrow_table(file: Path) -> pa.Table:
    """Mapped, of either of Arrow's formats, files and streams.

    Raises OSError or pyarrow.ArrowException: it is damaged or was cut short.
    """
    source = pa.memory_map(str(file))
    try:
        table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        table = pa.ipc.open_stream(source).read_all()
        source.seek(source.size() - len(END_OF_STREAM))
        if source.read() != END_OF_STREAM:
            raise pa.ArrowInvalid("it was cut short") from None
    table.validate()
    if IMAGE in table.schema.names:
        table[IMAGE].validate(full=True)  # a wrong offset would lead outside of the file, and end the process
    return table


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
