"""A headless Chromium, as Debian has it (`apt-get install chromium`), and pages for it to open."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from misc.search.index import Index
from misc.search.indexing.update import update_index
from misc.search.web.page import Page
from tests.helpers.search import running, save_image, small_page
from tests.misc.search.browser.window import ARABIC_NAME, LONG_FOLDER, WIDE_NAME, opened

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]  # root has no sandbox


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser test: pip install playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no browser test: there is no Chromium (apt-get install chromium)")
    playwright.expect.set_options(timeout=20_000)  # milliseconds, on a busy machine
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def annotated_server(annotated_page: Page) -> Iterator[str]:
    """The address of the page of people, with their annotations."""
    with running(annotated_page) as address:
        yield address


@pytest.fixture
def view(browser: Any, annotated_server: str) -> Iterator[Any]:
    """That page in a window."""
    with opened(browser, annotated_server) as page:
        yield page


@pytest.fixture(scope="session")
def gallery(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page of `people` and of images that are hard to show: a wide one, three copies of one in a folder
    with a long name, one whose name is written from right to left.
    """
    folder = tmp_path_factory.mktemp("gallery")
    page = small_page(people, folder)
    root = page.index.image_root
    save_image(root / WIDE_NAME, seed=2, size=(90, 30))
    for number in range(3):
        save_image(root / LONG_FOLDER / f"copy_{number}_of_the_same_frame.png", seed=3)
    save_image(root / ARABIC_NAME, seed=4)
    update_index(page.encoder, root, page.index.folder)
    return Page(Index.open(page.index.folder), page.encoder)


@pytest.fixture(scope="session")
def gallery_server(gallery: Page) -> Iterator[str]:
    """The address of the page of the gallery, without annotations."""
    with running(gallery) as address:
        yield address


@pytest.fixture
def gallery_view(browser: Any, gallery_server: str) -> Iterator[Any]:
    """That page in a window."""
    with opened(browser, gallery_server) as page:
        yield page


@pytest.fixture(scope="session")
def people_server(page_of_people: Page) -> Iterator[str]:
    """The address of a page of people in photos and a video."""
    with running(page_of_people) as address:
        yield address


@pytest.fixture
def people_view(browser: Any, people_server: str) -> Iterator[Any]:
    """That page in a window."""
    with opened(browser, people_server) as page:
        yield page
