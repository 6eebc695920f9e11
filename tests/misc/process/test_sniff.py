"""What is said of a file that is not what it should be."""

import gzip
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from misc.process.sniff import describe_bytes, describe_file


def encoded(kind: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, kind)
    return buffer.getvalue()


def array() -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FILES = {
    b"": "an empty file",
    bytes(100): "a file of zeros",
    LFS: "a Git LFS pointer",
    b"/annex/objects/SHA256E-s12--ab.jpg\n": "a git-annex pointer",
    b"\n\n<!DOCTYPE html>\n<title>Sign in</title>": "an HTML page",
    b"\xef\xbb\xbf<HTML lang='en'>": "an HTML page",
    '<?xml version="1.0"?><html>Zugriff verweigert: \xfc</html>'.encode(): "an HTML page",
    "<html><p>not found".encode("utf-16"): "an HTML page",
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": "an XML document that begins with",
    b"<?xml version='1.0'?><svg/>": "an SVG drawing",
    b"404: Not Found": "a text that begins with '404: Not Found'",
    b'{"error": {"code": 403}}': 'a text that begins with \'{"error"',
    " \n": "a text of spaces alone",
    "错误".encode() * 3000: "a text that begins with '错误",
    b"%PDF-1.7\n%\xe2\xe3": "a PDF document",
    gzip.compress(b"x"): "a gzip archive",
    array(): "a NumPy array",
    encoded("JPEG"): "a JPEG image",
    encoded("PNG"): "a PNG image",
    encoded("WEBP"): "a WebP image",
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "a HEIC image",
    b"\0\0\0\x1cftypavif\0\0\0\0avifmif1": "an AVIF image",
    b"\0\0\0\x20ftypisom\0\0\x02\0": "a video (MP4)",
    b"\0\0\0\x14ftypqt  \0\0\0\0": "a video (MP4)",
    b"RIFF\0\0\0\0AVI LIST": "a video (AVI)",
    b"\0\x05\x16\x07\0\x02\0\0Mac OS X": "an AppleDouble file",
}


@pytest.mark.parametrize("content", FILES, ids=[*FILES.values()])
def test_a_file_is_told_by_its_first_bytes(content: bytes | str) -> None:
    given = content if isinstance(content, bytes) else content.encode()
    assert (describe_bytes(given[:4096]) or "").startswith(FILES[content])


def test_of_unknown_bytes_nothing_is_said() -> None:
    assert describe_bytes(bytes(range(1, 255))) is None


def test_of_a_path_it_is_said_what_is_there_without_waiting_or_raising(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("../gone.pt")
    (tmp_path / "pointer").write_bytes(LFS)
    said = {name: describe_file(tmp_path / name) for name in ("pipe", "dangling", "pointer", ".", "no")}
    assert said.pop("pointer").startswith("a Git LFS pointer")
    assert said == {
        "pipe": "no regular file",
        "dangling": "a link to '../gone.pt', which is not there",
        ".": "a folder",
        "no": "not there",
    }
