"""What the tests of search share: an encoder, an index of ten images, and a page of an index of people."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from misc.search.__main__ import main
from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.indexing.update import update_index
from misc.search.truth import load_ground_truth
from misc.search.web.page import Page
from tests.helpers.search import Search, image_folder, people_page, running, small_encoder, small_page


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return small_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def index(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of ten images: to be read, not changed."""
    folder = tmp_path_factory.mktemp("searched")
    update_index(encoder, image_folder(folder / "images"), folder / "index")
    return Index.open(folder / "index")


@pytest.fixture
def images(index: Index, tmp_path: Path) -> Path:
    """A copy of the images of `index`, `tmp_path`/images."""
    return Path(shutil.copytree(index.image_root, tmp_path / "images"))


@pytest.fixture
def index_folder(index: Index, tmp_path: Path) -> Path:
    """A copy of `index`, `tmp_path`/index: images with the times of the original ones need no encoding."""
    return Path(shutil.copytree(index.folder, tmp_path / "index"))


@pytest.fixture
def search(index: Index, capsys: pytest.CaptureFixture[str]) -> Search:
    """search(*arguments): the output of --json; of another index with `folder`."""

    def run(*arguments: str, folder: Path = index.folder) -> list[dict[str, Any]]:
        assert main(["query", str(folder), *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def user_error(index: Index, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """user_error(*arguments): the error line."""

    def run(*arguments: str) -> str:
        assert main(["query", str(index.folder), *arguments]) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.strip().splitlines()
        assert line.startswith("error: ")
        assert not captured.out
        return line

    return run


@pytest.fixture(scope="session")
def page(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page of an index of `people`, without annotations."""
    return small_page(people, tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="session")
def annotated_page(page: Page, people: Path) -> Page:
    """`page` with the annotations of `people`."""
    return Page(page.index, page.encoder, load_ground_truth(page.index, people))


@pytest.fixture(scope="session")
def server(page: Page) -> Iterator[str]:
    """The address of `page`."""
    with running(page) as address:
        yield address


@pytest.fixture(scope="session")
def page_of_people(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page of an index of people in photos and, where PyAV is installed, in a video: to be read."""
    return people_page(people, tmp_path_factory.mktemp("sighted"))
