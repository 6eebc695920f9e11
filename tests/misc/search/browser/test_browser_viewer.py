"""The large view of an image."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from misc.search.web.page import Page
from tests.misc.search.browser.window import (
    ENGLISH,
    LONG_FOLDER,
    images,
    open_filters,
    paths,
    query_of,
    search,
    shown_ids,
    text_field,
)

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.slow
OVERLAY = re.compile("^blob:")


def test_keys_lead_through_the_images_and_escape_closes(view: Any) -> None:
    search(view, ENGLISH)
    found, ids = paths(view), shown_ids(view)
    images(view).nth(1).press("Enter")
    dialog = view.get_by_role("dialog")
    name = view.locator("#viewer-name")
    expect(dialog).to_be_visible()
    expect(name).to_have_text(found[1].rpartition("/")[2])
    expect(view.locator("#viewer-rank")).to_contain_text("Rank 2")
    assert query_of(view).endswith(f"#image-{ids[1]}")
    for key, number in (("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", 0)):
        view.keyboard.press(key)
        expect(name).to_have_text(found[number].rpartition("/")[2])
        expect(view).to_have_url(view.url.rpartition("-")[0] + f"-{ids[number]}")
    expect(view.get_by_role("button", name="Previous image")).to_be_disabled()
    view.get_by_role("button", name="Next image").click()
    view.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(images(view).nth(1)).to_be_focused()  # the one that was seen last
    assert "#" not in query_of(view)


def test_the_next_image_after_the_last_one_is_fetched(view: Any) -> None:
    view.set_viewport_size({"width": 500, "height": 500})
    search(view, ENGLISH)
    images(view).nth(39).click()
    expect(view.locator("#viewer-rank")).to_contain_text("Rank 40")
    view.keyboard.press("ArrowRight")
    expect(view.locator("#viewer-rank")).to_contain_text("Rank 41")


def test_results_that_come_late_do_not_open_what_the_user_has_closed(view: Any) -> None:
    waiting = []
    view.set_viewport_size({"width": 500, "height": 500})
    search(view, ENGLISH)
    view.route("**/api/search", lambda route: waiting.append(route))
    images(view).nth(39).click()
    expect(view.locator("#viewer-rank")).to_contain_text("Rank 40")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Escape")
    expect(view.get_by_role("dialog")).to_be_hidden()
    waiting[0].continue_()
    expect(images(view)).to_have_count(45)
    expect(view.get_by_role("dialog")).to_be_hidden()
    assert "#" not in query_of(view)


def test_results_that_come_late_leave_the_address_of_what_the_user_has_opened(view: Any) -> None:
    waiting = []
    view.set_viewport_size({"width": 500, "height": 500})
    search(view, ENGLISH)
    view.route("**/api/search", lambda route: waiting.append(route))
    view.evaluate("document.querySelector('#show-more').click()")
    images(view).first.click()
    expect(view.get_by_role("dialog")).to_be_visible()
    before = query_of(view).partition("#")[2]
    waiting[0].continue_()
    expect(images(view)).to_have_count(45)
    expect(view).to_have_url(re.compile(f"k=45#{before}$"))


def test_the_address_keeps_the_opened_image_and_back_closes_it(view: Any) -> None:
    search(view, ENGLISH)
    images(view).nth(3).click()
    name = view.locator("#viewer-name").inner_text()
    view.reload()
    expect(view.locator("#viewer-name")).to_have_text(name)
    expect(view.get_by_role("dialog")).to_be_visible()
    view.go_back()
    expect(view.get_by_role("dialog")).to_be_hidden()
    expect(images(view)).to_have_count(40)
    view.go_forward()
    expect(view.get_by_role("dialog")).to_be_visible()


def test_an_address_with_an_image_of_another_search_says_so(view: Any, annotated_server: str) -> None:
    view.goto(f"{annotated_server}/?q=a+woman#image-99999")
    expect(view.locator("#notice")).to_contain_text("not among these results")
    expect(view.get_by_role("dialog")).to_be_hidden()


def test_metadata_path_and_file_of_the_image(view: Any, annotated_page: Page, tmp_path: Path) -> None:
    view.context.grant_permissions(["clipboard-read", "clipboard-write"])
    search(view, ENGLISH)
    path = paths(view)[2]
    file = annotated_page.index.image_root / path
    images(view).nth(2).click()
    width, height = Image.open(file).size
    expect(view.locator("#facts")).to_contain_text(f"{width} × {height} pixels")
    expect(view.locator("#viewer-folder")).to_have_text(path.rpartition("/")[0])
    expect(view.locator("#viewer-image")).not_to_have_js_property("naturalWidth", 0)
    view.get_by_role("button", name="Copy path").click()
    expect(view.locator("#viewer-status")).to_have_text("Copied")
    assert view.evaluate("navigator.clipboard.readText()") == path
    with view.expect_download() as download:
        view.get_by_role("link", name="Download").click()
    download.value.save_as(tmp_path / "image")
    assert (tmp_path / "image").read_bytes() == file.read_bytes()
    with view.context.expect_page() as new:
        view.get_by_role("link", name="Open").click()
    opened = view.context.request.get(new.value.url or view.locator("#open-file").get_attribute("href"))
    assert Image.open(BytesIO(opened.body())).size == (width, height)


def test_the_overlay_comes_and_goes(view: Any) -> None:
    search(view, ENGLISH)
    images(view).nth(1).click()
    where, image = view.locator("#viewer-where"), view.locator("#viewer-image")
    plain = image.get_attribute("src")
    for act in (where.click, lambda: view.keyboard.press("e")):
        act()
        expect(where).to_have_attribute("aria-pressed", "true")
        expect(image).to_have_attribute("src", OVERLAY)
        where.click()
        expect(image).to_have_attribute("src", plain)
    view.keyboard.press("e")
    view.keyboard.press("ArrowRight")  # the next image is shown as it is, even if the overlay comes late
    expect(where).to_have_attribute("aria-pressed", "false")
    view.wait_for_load_state("networkidle")
    assert not image.get_attribute("src").startswith("blob:")


def test_the_overlay_in_the_grid_and_none_without_a_sentence(view: Any) -> None:
    search(view, ENGLISH)
    card, image = view.locator("#results li").nth(1), view.locator("#results img").nth(1)
    plain = image.get_attribute("src")
    images(view).nth(1).focus()
    view.keyboard.press("e")
    expect(image).to_have_attribute("src", OVERLAY)
    card.locator(".where").click()
    expect(image).to_have_attribute("src", plain)
    card.locator(".similar").click()
    expect(view.locator("#parts li")).to_have_count(1)
    expect(view.locator(".where").first).to_be_hidden()
    images(view).first.focus()
    view.keyboard.press("e")
    view.wait_for_load_state("networkidle")
    expect(view.get_by_role("alert")).to_be_hidden()
    images(view).first.click()
    expect(view.locator("#viewer-where")).to_be_hidden()


def test_more_like_this_and_feedback_from_the_large_view(view: Any) -> None:
    search(view, ENGLISH)
    first, second = shown_ids(view)[:2]
    images(view).first.click()
    view.get_by_role("button", name="Less of this").click()
    expect(view.get_by_role("dialog")).to_be_hidden()
    expect(view.locator("#parts li[data-kind=less]")).to_have_count(1)
    assert f"less={first}" in query_of(view)
    expect(text_field(view)).to_have_value(ENGLISH)
    view.locator(f"#results li:has(img[data-id='{second}']) .image").click()
    view.get_by_role("button", name="More of this").click()
    expect(view.locator("#parts li[data-kind=more]")).to_have_count(1)
    assert query_of(view).endswith(f"more={second}&less={first}")
    view.get_by_role("button", name="Remove: less of this image").click()
    expect(view.locator("#parts li")).to_have_count(1)
    images(view).first.click()
    liked = view.locator("#viewer-image").get_attribute("data-id")
    view.get_by_role("dialog").get_by_role("button", name="More like this").click()
    expect(view.get_by_role("dialog")).to_be_hidden()
    expect(text_field(view)).to_have_value("")
    expect(view.locator("#results[aria-busy=false] li").first).to_be_visible()
    assert query_of(view) == f"?like={liked}"


def test_duplicates_are_one_result_with_a_count_that_opens_them(gallery_view: Any) -> None:
    view = gallery_view
    open_filters(view)
    view.get_by_label("Folder").fill(LONG_FOLDER)
    search(view, ENGLISH)
    expect(images(view)).to_have_count(1)
    copies = view.get_by_role("button", name="show its 3 copies")
    expect(copies).to_have_text("×3")
    copies.click()
    expect(view.locator("#copies h3")).to_have_text("3 copies of this image")
    listed = view.locator("#copies li button")
    expect(listed).to_contain_text([f"copy_{number}_of_the_same_frame.png" for number in range(3)])
    listed.nth(2).click()
    expect(view.locator("#viewer-name")).to_have_text("copy_2_of_the_same_frame.png")
    view.keyboard.press("Escape")
    view.get_by_label("Show duplicates as one").uncheck()
    expect(images(view)).to_have_count(3)
