"""The page for everybody: keyboard, screen readers, phones, dark rooms, long and wide things."""

import re
from typing import Any

import pytest

from misc.search.web.page import Page
from tests.misc.search.browser.window import (
    ARABIC_NAME,
    CHINESE,
    ENGLISH,
    LONG_FOLDER,
    PHONE,
    WIDE_NAME,
    expect_no_violations,
    images,
    open_filters,
    opened,
    search,
    text_field,
)

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("window", [{}, PHONE], ids=["desktop", "phone"])
def test_no_state_of_the_page_violates_accessibility(
    browser: Any, annotated_server: str, window: dict[str, Any], scheme: str
) -> None:
    with opened(browser, annotated_server, color_scheme=scheme, bypass_csp=True, **window) as view:
        expect_no_violations(view)  # before the first search
        view.locator("#examples button").first.click()
        expect(images(view)).to_have_count(40)
        view.get_by_label("Select rank 2", exact=True).check(force=True)
        open_filters(view)
        view.get_by_label("Folder").fill("cam_3")
        view.get_by_label("Folder").press("Enter")
        expect(view.locator("#active li")).to_have_count(1)
        view.locator("#results[aria-busy=false]").wait_for()
        expect_no_violations(view)  # results, filters, a selection
        images(view).first.click()
        expect(view.locator("#viewer-image")).not_to_have_js_property("naturalWidth", 0)
        expect_no_violations(view)  # the large view
        view.get_by_role("button", name="More of this").click()
        view.locator("#parts li").wait_for()
        for name in ("History", "Help"):
            view.get_by_role("button", name=name).click()
            expect_no_violations(view)
            view.keyboard.press("Escape")
        view.route("**/api/search", lambda route: None)  # never answered
        text_field(view).fill("a third")
        text_field(view).press("Enter")
        view.locator("#results[aria-busy=true]").wait_for()
        expect_no_violations(view)  # earlier results during a search
        view.unroute("**/api/search")
        view.route("**/api/search", lambda route: route.fulfill(status=503, json={"error": "Busy"}))
        text_field(view).fill("another")
        text_field(view).press("Enter")
        expect(view.get_by_role("alert")).to_contain_text("Busy")
        expect_no_violations(view)  # an error, with photos in the query


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_login_form_violates_no_accessibility(browser: Any, annotated_server: str, scheme: str) -> None:
    def refuse(route: Any) -> None:
        route.fulfill(status=401, json={"error": "The password is wrong"})

    window = {"color_scheme": scheme, "bypass_csp": True}
    with opened(
        browser, annotated_server, before=lambda page: page.route("**/api/**", refuse), **window
    ) as view:
        view.get_by_label("Password").fill("guess")
        view.get_by_label("Password").press("Enter")
        expect(view.get_by_role("dialog").get_by_role("alert")).to_contain_text("wrong")
        expect_no_violations(view)


def test_everything_works_with_the_keyboard(view: Any) -> None:
    press = view.keyboard.press
    expect(text_field(view)).to_be_focused()
    view.keyboard.type(ENGLISH)
    press("Enter")
    expect(images(view)).to_have_count(40)
    for _ in range(30):
        press("Tab")
        if view.evaluate("document.activeElement.className") == "image":
            break
    expect(images(view).first).to_be_focused()
    assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # visible
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        press(key)
    expect(images(view).nth(1)).to_be_focused()
    for _ in range(4):  # select, similar, where, and past the other images
        press("Tab")
    expect(view.get_by_role("button", name="Show more")).to_be_focused()
    images(view).nth(1).focus()
    press("e")
    expect(view.locator(".where").nth(1)).to_have_attribute("aria-pressed", "true")
    press("Enter")
    expect(view.get_by_role("dialog")).to_be_visible()
    press("Escape")
    expect(images(view).nth(1)).to_be_focused()
    press("s")
    expect(view.locator("#parts li")).to_have_count(1)
    expect(images(view).first).to_be_focused()
    press("/")
    expect(text_field(view)).to_be_focused()
    assert text_field(view).input_value() == ""


def test_arrow_keys_move_in_two_dimensions(view: Any) -> None:
    search(view, ENGLISH)
    images(view).nth(2).focus()
    boxes = [image.bounding_box() for image in images(view).all()]
    tops = sorted({round(box["y"]) for box in boxes})
    for key, row in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1)):
        before = view.evaluate("[...document.querySelectorAll('.image')].indexOf(document.activeElement)")
        view.keyboard.press(key)
        at = view.evaluate("[...document.querySelectorAll('.image')].indexOf(document.activeElement)")
        assert round(boxes[at]["y"]) == tops[row]
        middle = boxes[before]["x"] + boxes[before]["width"] / 2
        distances = {
            number: abs(box["x"] + box["width"] / 2 - middle)
            for number, box in enumerate(boxes)
            if round(box["y"]) == tops[row]
        }
        assert at == min(distances, key=distances.get)
    number = images(view).count()
    view.keyboard.press("End")
    at = view.evaluate("[...document.querySelectorAll('.image')].indexOf(document.activeElement)")
    assert at >= number - 1  # scrolling there loads more
    view.keyboard.press("Home")
    expect(images(view).first).to_be_focused()
    view.keyboard.press("ArrowUp")
    expect(images(view).first).to_be_focused()


def test_everything_has_a_name_for_screen_readers(view: Any) -> None:
    search(view, ENGLISH)
    open_filters(view)
    snapshot = view.locator("body").aria_snapshot()
    for role in ("button", "textbox", "spinbutton", "checkbox", "list", "group"):
        lines = [line.strip() for line in snapshot.splitlines() if re.match(rf"- '?{role}\b", line.strip())]
        assert lines, role
        assert all('"' in line for line in lines), lines


def test_wide_images_long_paths_and_right_to_left_names_fit(gallery_view: Any) -> None:
    view = gallery_view
    text_field(view).fill("امرأة بمعطف أحمر")
    assert view.evaluate("getComputedStyle(document.querySelector('#text')).direction") == "rtl"
    search(view, ENGLISH)
    view.get_by_role("button", name="Show more").press("Enter")

    def card(path: str) -> Any:
        return view.locator("#results li").filter(has=view.locator(f".path[title='{path}']"))

    wide = card(WIDE_NAME).locator(".image").bounding_box()
    assert 2.2 < wide["width"] / wide["height"] < 2.6  # 3, within the limits of a card
    height = images(view).first.bounding_box()["height"]
    assert wide["height"] < 1.3 * height
    tail = card(f"{LONG_FOLDER}/copy_0_of_the_same_frame.png").locator(".path .tail")
    assert tail.text_content() == "e_same_frame.png"
    assert tail.evaluate("tail => tail.scrollWidth <= tail.clientWidth + 1")  # seen whole
    assert card(ARABIC_NAME).locator(".path").evaluate("path => getComputedStyle(path).direction") == "rtl"


def test_a_phone_shows_it_without_scrolling_sideways(browser: Any, gallery_server: str) -> None:
    with opened(browser, gallery_server, **PHONE) as view:
        text_field(view).fill(CHINESE)
        view.get_by_role("button", name="Search", exact=True).tap()
        expect(images(view)).to_have_count(40)
        assert view.evaluate("document.documentElement.scrollWidth") == 360
        boxes = [image.bounding_box() for image in images(view).all()]
        assert boxes[0]["y"] + boxes[0]["height"] < 740  # the first in sight
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in boxes)
        view.get_by_label("Select rank 1", exact=True).check(force=True)
        bar = view.get_by_role("group", name="Selected images").bounding_box()
        assert bar["x"] >= 0
        assert bar["x"] + bar["width"] <= 360
        view.get_by_role("button", name="Clear the selection").tap()
        open_filters(view)
        assert view.evaluate("document.documentElement.scrollWidth") == 360
        images(view).nth(1).tap()
        expect(view.get_by_role("dialog")).to_be_visible()
        assert view.evaluate("document.querySelector('#viewer').scrollWidth") == 360
        view.get_by_role("button", name="Next image").tap()
        expect(view.locator("#viewer-rank")).to_contain_text("Rank 3")
        view.get_by_role("button", name="Close", exact=True).tap()
        expect(view.get_by_role("dialog")).to_be_hidden()


def test_nothing_moves_for_those_who_want_no_motion(
    browser: Any, annotated_page: Page, annotated_server: str
) -> None:
    with opened(browser, annotated_server, reduced_motion="reduce") as view:
        view.route("**/api/search", lambda route: None)
        text_field(view).fill(ENGLISH)
        text_field(view).press("Enter")
        expect(view.locator("#status")).to_have_text("Searching …")
        assert view.evaluate("getComputedStyle(document.body, '::before').animationName") == "none"
