"""Photos as queries: chosen, dropped, pasted, weighed."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from misc.search.web.page import Page
from tests.misc.search.browser.window import ENGLISH, images, paths, query_of, search, shown_ids, text_field

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.slow

# A DataTransfer with the file, as the browser makes for a drop or a paste.
TRANSFER = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type}));
  return transfer;
}"""


def transfer(view: Any, file: Path, kind: str = "image/jpeg") -> Any:
    data = base64.b64encode(file.read_bytes()).decode()
    return view.evaluate_handle(TRANSFER, [file.name, kind, data])


@pytest.fixture
def photo(annotated_page: Page) -> Path:
    """An image of the index, so that it finds itself first."""
    return annotated_page.index.image_root / annotated_page.index.paths[7]


def expect_photo(view: Any, photo: Path, page: Page) -> None:
    expect(view.get_by_alt_text("Your photo")).to_have_count(1)
    expect(images(view)).to_have_count(40)
    assert paths(view)[0] == photo.relative_to(page.index.image_root).as_posix()
    assert query_of(view).startswith("?upload=")


def test_a_photo_is_chosen_and_stays_in_the_address(view: Any, photo: Path, annotated_page: Page) -> None:
    with view.expect_file_chooser() as chooser:
        view.get_by_role("button", name="Add a photo to the query").click()
    chooser.value.set_files(photo)
    expect_photo(view, photo, annotated_page)
    view.reload()
    expect_photo(view, photo, annotated_page)
    view.get_by_role("button", name="Remove: similar to this image").click()
    expect(view.locator("#parts li")).to_have_count(0)


def test_a_photo_is_dropped(view: Any, photo: Path, annotated_page: Page) -> None:
    data = transfer(view, photo)
    view.dispatch_event("body", "dragover", {"dataTransfer": data})
    expect(view.get_by_text("Drop the photo")).to_be_visible()
    view.dispatch_event("body", "drop", {"dataTransfer": data})
    expect_photo(view, photo, annotated_page)
    expect(view.get_by_text("Drop the photo")).to_be_hidden()


def test_a_photo_is_pasted(view: Any, photo: Path, annotated_page: Page) -> None:
    view.evaluate(
        "data => dispatchEvent(new ClipboardEvent('paste', {clipboardData: data}))", transfer(view, photo)
    )
    expect_photo(view, photo, annotated_page)


def test_weights_change_the_ranking_and_several_images_are_one_query(
    view: Any, photo: Path, annotated_page: Page
) -> None:
    search(view, ENGLISH)
    by_text = paths(view)
    view.locator("#photo").set_input_files(photo)
    expect(view.locator("#parts li")).to_have_count(1)
    expect(view.locator("#results[aria-busy=false]")).to_be_visible()
    expect(text_field(view)).to_have_value(ENGLISH)
    both = paths(view)
    assert both != by_text
    weight = view.get_by_role("slider", name="Weight")
    weight.fill("0.1")
    expect(view.locator(".weight output")).to_have_text("0.1")
    expect(view).to_have_url(re.compile(r":0\.1$"))
    expect(view.locator("#results[aria-busy=false]")).to_be_visible()
    assert paths(view) != both
    others = [annotated_page.index.image_root / path for path in annotated_page.index.paths[9:11]]
    view.locator("#photo").set_input_files(others)
    expect(view.locator("#parts li")).to_have_count(3)
    expect(view.locator("#results[aria-busy=false]")).to_be_visible()
    assert query_of(view).count("upload=") == 3
    assert len(shown_ids(view)) == 40


def test_a_file_that_is_no_image_is_refused(view: Any, tmp_path: Path) -> None:
    search(view, ENGLISH)
    (tmp_path / "notes.txt").write_text("a woman")
    view.dispatch_event(
        "body", "drop", {"dataTransfer": transfer(view, tmp_path / "notes.txt", "text/plain")}
    )
    expect(view.get_by_role("alert")).to_contain_text("not an image")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    view.locator("#photo").set_input_files(tmp_path / "broken.jpg")
    expect(view.get_by_role("alert")).to_contain_text("image")
    expect(images(view)).to_have_count(40)


def test_a_photo_that_the_server_has_forgotten_is_asked_for_again(view: Any, annotated_server: str) -> None:
    view.goto(f"{annotated_server}/?upload={'0' * 32}")
    expect(view.get_by_role("alert")).to_contain_text("upload it again")
