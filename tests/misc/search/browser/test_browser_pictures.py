"""Pictures of the page. Those of the docs are of the indexes that `make demo-search` and `make demo-scenes`
leave: SEARCH_PICTURE=docs names the folder that they are written into.
"""

import os
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from misc.search.index import Index
from misc.search.truth import load_ground_truth
from misc.search.web.page import Page
from tests.helpers.search import running
from tests.misc.search.browser.window import images, opened, search

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.slow

PICTURE = "SEARCH_PICTURE"  # an environment variable
SENTENCE = "a woman in a blue dress with a yellow bag"
WALKING = "a woman in a sky blue jumper and dark blue trousers, with a white handbag"
DESKTOP = {"viewport": {"width": 1280, "height": 860}}
PHONE = {"viewport": {"width": 390, "height": 860}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def pictured_server(annotated_page: Page) -> Iterator[str]:
    page = annotated_page
    if PICTURE in os.environ:
        index = Index.open(Path("runs/demo-search/index"))
        page = Page(index, index.load_encoder(), load_ground_truth(index, Path("datasets/demo")))
    with running(page) as server:
        yield server


@pytest.fixture(scope="module")
def scenes_server(page_of_people: Page) -> Iterator[str]:
    page = page_of_people
    if PICTURE in os.environ:
        index = Index.open(Path("runs/demo-scenes/index"))
        page = Page(index, index.load_encoder())
    with running(page) as server:
        yield server


def save(view: Any, folder: Path, name: str) -> None:
    view.wait_for_load_state("networkidle")
    view.mouse.move(0, 0)
    picture = Image.open(BytesIO(view.screenshot())).convert("RGB")
    assert len(picture.resize((64, 43)).getcolors(64 * 43)) > 250  # people, no blank page
    picture.quantize(256).save(Path(os.environ.get(PICTURE, folder)) / name, optimize=True)


def test_pictures_of_the_page_and_the_large_view(browser: Any, pictured_server: str, tmp_path: Path) -> None:
    with opened(browser, pictured_server, **DESKTOP) as view:
        search(view, SENTENCE)
        for number in (0, 3):
            view.locator(".where").nth(number).click()
            expect(view.locator("#results img").nth(number)).to_have_attribute("src", re.compile("^blob:"))
        for number in (1, 4):
            view.get_by_label(f"Select rank {number + 1}", exact=True).check(force=True)
        save(view, tmp_path, "search-page.png")
        images(view).nth(1).click()
        expect(view.locator("#viewer-image")).not_to_have_js_property("naturalWidth", 0)
        save(view, tmp_path, "search-large.png")


def test_a_picture_of_the_phone(browser: Any, pictured_server: str, tmp_path: Path) -> None:
    with opened(browser, pictured_server, color_scheme="dark", **PHONE) as view:
        search(view, SENTENCE)
        save(view, tmp_path, "search-phone.png")


def test_a_picture_of_the_scene(browser: Any, scenes_server: str, tmp_path: Path) -> None:
    with opened(browser, scenes_server, **DESKTOP) as view:
        search(view, WALKING)
        view.locator("#results li:not(:has-text('nobody')) .image").first.click()
        view.locator("#view-scene").click()
        expect(view.locator("#scene-box")).to_be_visible()
        save(view, tmp_path, "search-scene.png")
