"""Where an index is: a folder, or a collection of Milvus."""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from misc.cli import path_text

PREFIX, SUFFIX = "milvus:", ".db"
ADDRESS = re.compile(r"(https?://[^/]+)/([A-Za-z_]\w{0,199})", re.ASCII)
IN_FILE = "images"  # the collection in a file


class MilvusPlace(NamedTuple):
    """A collection of a Milvus server, or of a file of milvus-lite."""

    uri: str
    collection: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.uri}/{self.collection}" if self.folder is None else self.uri

    @property
    def folder(self) -> Path | None:
        """What milvus-lite writes to."""
        return None if self.uri.startswith("http") else Path(self.uri)


def index_place(text: str) -> Path | MilvusPlace:
    """The type of an argument INDEX: milvus:http://HOST:PORT/COLLECTION, NAME.db, or a folder.

    Raises:
        ArgumentTypeError: it is none of these.
    """
    if text.startswith(PREFIX):
        match = ADDRESS.fullmatch(text.removeprefix(PREFIX))
        if match is None:
            raise argparse.ArgumentTypeError(
                f"expected milvus:http://HOST:19530/COLLECTION, the collection in letters, digits and _, "
                f"found {text!r:.80}"
            )
        return MilvusPlace(match[1], match[2])
    path = path_text(text)
    return MilvusPlace(path, IN_FILE) if path.lower().endswith(SUFFIX) else Path(path)
