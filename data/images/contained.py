"""Images inside other files. The path of one is that of the file, followed by its place there: OFFSET/NAME in
a tar file, where its header begins and how it is called; the number of its row in an Arrow or Parquet file.
"""

import os
import re
import tarfile
from collections.abc import Container
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from data.images.regions import whole_image
from misc.process.failures import reason_of

TAR = ".tar"
TABLES = {".arrow", ".parquet"}
SUFFIXES = TABLES | {TAR}
ENDINGS = tuple(SUFFIXES)
BLOCK = tarfile.BLOCKSIZE  # of a header; the content of a member follows it
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow's format
IMAGE = "image"  # the column: bytes, or {bytes, path} as Hugging Face's data sets have it
IN_TAR = re.compile(r"(.+\.tar)/(\d+/[^/]+)", re.IGNORECASE)
LONGEST = 99  # bytes of a name that a header surely holds whole


class Member(NamedTuple):
    """A file in a tar file."""

    name: str
    offset: int  # of its header
    size: int


def split_path(image: str) -> tuple[str, str]:
    """The folder or tar file of an image, and its place there; of a region, those of the image it is of."""
    image = whole_image(image)
    match = IN_TAR.fullmatch(image)
    folder, _, name = image.rpartition("/")
    return (match[1], match[2]) if match else (folder, name)


def place_of(path: str | Path) -> tuple[Path, str] | None:
    """The file and the place in it, of a path that names something inside a file."""
    folder, name = split_path(os.fspath(path).replace(os.sep, "/"))
    if not folder.lower().endswith(ENDINGS):
        return None
    try:
        return _file(folder), name
    except FileNotFoundError:
        return None


@lru_cache(maxsize=1024)  # of many images in one
def _file(path: str) -> Path:
    """Raises FileNotFoundError where there is no such file: this is not kept, for it may come to be there."""
    if not os.path.isfile(path):
        raise FileNotFoundError(path)
    return Path(path)


def read_content(path: Path) -> bytes:
    """The file of an image, from wherever it is. Raises OSError where it cannot be read."""
    place = place_of(path)
    return read_image(*place) if place else path.read_bytes()


def read_image(file: Path, place: str) -> bytes:
    """The file of an image. Raises OSError where there is none, or `file` is damaged."""
    try:
        if file.suffix.lower() == TAR:
            return _in_tar(file, place)
        row = int(place)
        value = (
            arrow_table(file)[IMAGE][row].as_py()
            if file.suffix.lower() == ".arrow"
            else _in_parquet(file, row)
        )
    except (pa.ArrowException, LookupError, ValueError, OverflowError) as error:
        reason = reason_of(error)
        raise OSError(f"'{place}' of '{file.name}' cannot be read: {reason:.150}") from error
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes) or not content:
        raise OSError(f"row {place} of '{file.name}' holds no image")
    return content


def places_in(file: Path) -> Container[str]:
    """The places in a file where images can be. Raises OSError or pyarrow.ArrowException: it is damaged."""
    if file.suffix.lower() == TAR:
        return _Offsets(file.stat().st_size)
    is_arrow = file.suffix.lower() == ".arrow"
    number = arrow_table(file).num_rows if is_arrow else parquet_file(file).metadata.num_rows
    return {str(row) for row in range(number)}


class _Offsets(Container[str]):
    """Those within a tar file: whether an image is there is seen when it is read."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __contains__(self, place: object) -> bool:
        offset = str(place).partition("/")[0]
        return offset.isdecimal() and int(offset) + BLOCK < self.size


def tar_members(file: Path) -> list[Member]:
    """The regular files in a tar file that is not compressed, in order.

    Raises:
        OSError, tarfile.TarError: it is damaged or was cut short.
    """
    with tarfile.open(file, "r:") as tar:
        found = [Member(m.name, m.offset_data - BLOCK, m.size) for m in tar if m.isreg()]
        with file.open("rb") as stream:
            if os.pread(stream.fileno(), BLOCK, tar.offset) != bytes(BLOCK):
                raise OSError("it was cut short")
    return found


def read_member(stream: BinaryIO, member: Member) -> bytes:
    """The content of a member of an open tar file. Raises OSError where the file was cut short."""
    content = os.pread(stream.fileno(), member.size, member.offset + BLOCK)
    if len(content) < member.size:
        raise OSError("it was cut short")
    return content


def _in_tar(file: Path, place: str) -> bytes:
    """Read at the offset, if the header there has the name: another file may have taken the place."""
    start, _, name = place.partition("/")
    offset, descriptor = int(start), os.open(file, os.O_RDONLY)
    try:
        found, size = _header(os.pread(descriptor, BLOCK, offset))
        if found.rpartition("/")[2] != name and len(os.fsencode(found)) <= LONGEST:
            raise LookupError(f"'{found}' is in its place; the file has changed since it was listed")
        content = os.pread(descriptor, size, offset + BLOCK)
    finally:
        os.close(descriptor)
    if len(content) < size:
        raise LookupError("the file was cut short")
    return content


def _header(block: bytes) -> tuple[str, int]:
    """The name and the size of the file that a header is of. Raises LookupError, ValueError: it is none.

    `tarfile` reads the same, and takes as long for it as reading the file does.
    """
    if block[257:262] != b"ustar":
        raise LookupError("no file begins there")
    return os.fsdecode(block[:100].partition(b"\0")[0]), int(block[124:136].strip(b"\0 "), 8)


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
