"""What commands have in common."""

from pathlib import Path

from misc.cli import Parser
from misc.search.storage.places import index_place


def add_index_argument(parser: Parser) -> None:
    """The arguments that `query` and `serve` share."""
    add = parser.add_argument
    add("index", type=index_place, metavar="INDEX", help="folder, or Milvus address, written by `index`")
    add("--checkpoint", type=Path, metavar="FILE", help="the weights of the index, if they were moved")
