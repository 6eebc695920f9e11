"""What a file that cannot be read is, by its first bytes: for the messages about images and weights."""

import contextlib
import os
import re
import stat
import zipfile
from pathlib import Path

NUM_BYTES = 4096  # of a file that are looked at
MAX_HEADER = 2**26  # bytes of a safetensors file's header

# (offset, bytes there, what the file is); the first that fits.
SIGNATURES = (
    (0, b"version https://git-lfs.github.com/spec/", "a Git LFS pointer: fetch the file with 'git lfs pull'"),
    (0, b"/annex/objects/", "a git-annex pointer: fetch the file with 'git annex get'"),
    (0, b"\x00\x05\x16\x07", "an AppleDouble file, where macOS keeps the attributes of another file"),
    (0, b"\x00\x00\x00\x01Bud1", "a .DS_Store file of macOS"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"{\\rtf", "an RTF document"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (0, b"Rar!", "a RAR archive: unpack it"),
    (0, b"BZh", "a bzip2 archive: unpack it"),
    (0, b"\xfd7zXZ\x00", "an xz archive: unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive: unpack it"),
    (257, b"ustar", "a tar archive: unpack it"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a file of torch.save, not whole"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"GGUF", "a GGUF model"),
    (0, b"MATLAB", "a MATLAB file"),
    (0, b"SQLite format 3", "an SQLite database"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"II*\x00", "a TIFF image or a raw photo"),
    (0, b"MM\x00*", "a TIFF image or a raw photo"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (4, b"JXL \r\n\x87\n", "a JPEG XL image"),
    (0, b"FUJIFILM", "a raw photo"),
    (8, b"WEBP", "a WebP image"),
    (8, b"AVI ", "a video (AVI)"),
    (8, b"WAVE", "a sound file (WAVE)"),
    *(
        (4, b"ftyp" + brand, f"{name} image")
        for name, brands in {
            "an AVIF": "avif avis",
            "a HEIC": "heic heix heim heis hevc hevx mif1 msf1",
        }.items()
        for brand in map(str.encode, brands.split())
    ),
    (4, b"ftypcrx ", "a raw photo"),
    (4, b"ftyp", "a video (MP4)"),
    *((4, box, "a video (QuickTime)") for box in (b"moov", b"mdat", b"wide")),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)"),
    (0, b"FLV\x01", "a video (FLV)"),
    (0, b"\x00\x00\x01\xba", "a video (MPEG)"),
    (0, b"\x00\x00\x01\xb3", "a video (MPEG)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a video (WMV)"),
    (0, b"OggS", "a sound or video file (Ogg)"),
    (0, b"ID3", "a sound file (MP3)"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ\x90\x00", "a program"),
)


def describe_file(path: str | Path) -> str | None:
    """What is at `path`, such as "an HTML page"; None where that is not known. Raises nothing."""
    try:
        if not os.path.exists(path):
            is_link = os.path.islink(path)
            return f"a link to '{os.readlink(path)}', which is not there" if is_link else "not there"
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # to open a pipe is to wait for whoever writes into it
            return "a folder" if stat.S_ISDIR(mode) else "no regular file"
        with open(path, "rb") as file:
            start = file.read(NUM_BYTES)
        return _describe_archive(path, start) or describe_bytes(start)
    except OSError:
        return None


def _describe_archive(path: str | Path, start: bytes) -> str | None:
    """Of a ZIP or safetensors file also whether it is whole, and what is in a ZIP; None for other files."""
    if start.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            return "the beginning of a ZIP file, as an interrupted download leaves it"
        with contextlib.suppress(zipfile.BadZipFile, ValueError), zipfile.ZipFile(path) as archive:
            return f"a ZIP archive with '{archive.namelist()[0]:.60}' in it"
    if start[8:9] == b"{" and b'"data_offsets"' in start:
        length = 8 + int.from_bytes(start[:8], "little")
        with open(path, "rb") as file:
            ends = re.findall(rb'"data_offsets":\s*\[\d+,\s*(\d{1,15})\]', file.read(min(length, MAX_HEADER)))
        announced, found = length + max(map(int, ends), default=0), os.path.getsize(path)
        if found < announced:
            sizes = f"{found:,} of the {announced:,} bytes that its header announces"
            return f"a safetensors file with {sizes}, as an interrupted download leaves it"
    return None


def describe_bytes(start: bytes) -> str | None:
    """What a file is that begins with `start`, its first `NUM_BYTES` or all of it; None: not known."""
    if not start:
        return "an empty file"
    if not start.strip(b"\0"):
        return "a file of zeros, as an interrupted download or copy leaves it"
    for offset, signature, name in SIGNATURES:
        if start.startswith(signature, offset):
            return name
    return _describe_text(start)


def _describe_text(start: bytes) -> str | None:
    """HTML, XML, or the first words of a text; None: no text."""
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = start[: len(start) // 2 * 2 if encoding == "utf-16" else None].decode(encoding, "replace")
    text = text.removesuffix("\ufffd")  # a character of several bytes at the end, cut
    if any(not (char.isprintable() or char.isspace()) or char == "\ufffd" for char in text):
        return None
    words = " ".join(text.split())
    lower = words.lower()
    if "<html" in lower or lower.startswith("<!doctype html"):
        return "an HTML page, such as a download service shows in place of the file"
    if "<svg" in lower:
        return "an SVG drawing"
    kind = "an XML document" if lower.startswith("<?xml") else "a text"
    return f"{kind} that begins with {words[:40]!r}" if words else "a text of spaces alone"
