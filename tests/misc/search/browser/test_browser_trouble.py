"""Delays, errors, updates of the index, the password."""

from pathlib import Path
from typing import Any

import pytest

from misc.search.indexing.update import update_index
from misc.search.web.access import Access
from misc.search.web.page import Page
from tests.helpers.search import ODD_NAME, running, save_image, small_page
from tests.misc.search.browser.window import (
    CHINESE,
    ENGLISH,
    images,
    opened,
    paths,
    search,
    submit,
    text_field,
)

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.slow

SEARCHES = "**/api/search"
# The time limits of the page, a thousand times shorter.
SHORT_LIMITS = (
    "window.wait = AbortSignal.timeout; AbortSignal.timeout = (ms) => wait.call(AbortSignal, ms / 1000)"
)


def test_searching_is_said_until_the_answer_is_there(view: Any) -> None:
    search(view, ENGLISH)
    waiting = []
    view.route(SEARCHES, lambda route: waiting.append(route))
    text_field(view).fill(CHINESE)
    submit(view)
    expect(view.locator("#status")).to_have_text("Searching …")
    expect(view.locator("#results")).to_have_attribute("aria-busy", "true")
    expect(images(view)).to_have_count(40)
    waiting[0].continue_()
    expect(view.locator("#results")).to_have_attribute("aria-busy", "false")
    expect(view.locator("#status")).to_contain_text("40 shown")


def test_a_late_answer_to_an_earlier_search_is_dropped(view: Any) -> None:
    search(view, CHINESE)
    found = paths(view)
    waiting = []
    view.route(SEARCHES, lambda route: waiting.append(route) if not waiting else route.continue_())
    text_field(view).fill(ENGLISH)
    submit(view)
    expect(view.locator("#results")).to_have_attribute("aria-busy", "true")
    search(view, CHINESE)
    expect(view.locator("#results[aria-busy=false]")).to_be_visible()
    waiting[0].abort()
    assert paths(view) == found
    expect(view.get_by_role("alert")).to_be_hidden()


def test_a_search_that_is_given_up_does_not_take_the_focus(view: Any) -> None:
    search(view, CHINESE)
    waiting = []
    view.route(SEARCHES, lambda route: waiting.append(route))
    view.locator("#results .similar").first.click()
    text_field(view).fill(ENGLISH)
    text_field(view).press("Enter")
    view.wait_for_function("() => document.title.startsWith('a woman')")
    view.evaluate("new Promise(setTimeout)")  # the first search has ended
    expect(text_field(view)).to_be_focused()
    waiting[1].continue_()
    view.locator("#results[aria-busy=false]").wait_for()
    expect(text_field(view)).to_be_focused()


def test_an_update_between_two_parts_of_an_answer_starts_it_over(view: Any, annotated_server: str) -> None:
    """The second part, of the index after the update, is behind its last result."""
    changes = [{"has_more": True}, {"results": [], "generation": 99}, {"generation": 99}]
    left = iter(changes)
    view.route(SEARCHES, lambda route: route.fulfill(json=route.fetch().json() | next(left)))
    view.goto(f"{annotated_server}/?q={ENGLISH}&k=400")
    expect(images(view)).to_have_count(45)
    expect(view.locator("#notice")).to_contain_text("The index was updated")
    assert not list(left)


def test_no_answer_in_time_is_said_and_can_be_tried_again(browser: Any, annotated_server: str) -> None:
    with opened(browser, annotated_server) as view:
        search(view, ENGLISH)
        found = paths(view)
        view.evaluate(SHORT_LIMITS)
        view.route(SEARCHES, lambda route: None)
        text_field(view).fill(CHINESE)
        submit(view)
        alert = view.get_by_role("alert")
        expect(alert).to_contain_text("No answer within 30 seconds")
        expect(alert).to_contain_text("The results below are those of the search before")
        assert paths(view) == found
        view.unroute(SEARCHES)
        view.evaluate("AbortSignal.timeout = wait")
        alert.get_by_role("button", name="Try again").click()
        expect(alert).to_be_hidden()
        view.locator("#results[aria-busy=false]").wait_for()
        assert paths(view) != found


def test_a_server_that_stopped_is_reported_and_the_results_stay(browser: Any, annotated_page: Page) -> None:
    with running(annotated_page) as server:
        window = opened(browser, server)
        view = window.__enter__()
        search(view, ENGLISH)
        found = paths(view)
        view.wait_for_load_state("networkidle")
    text_field(view).fill(CHINESE)
    submit(view)
    expect(view.get_by_role("alert")).to_contain_text("The server does not answer")
    assert paths(view) == found
    window.context.close()


@pytest.mark.parametrize(
    ("sentence", "message"), [("", "Describe a person first"), (" ... ", "words that describe a person")]
)
def test_invalid_queries_are_reported_on_the_page(view: Any, sentence: str, message: str) -> None:
    text_field(view).fill(sentence)
    submit(view)
    expect(view.get_by_role("alert")).to_contain_text(message)
    expect(images(view)).to_have_count(0)
    search(view, "红" * 1_000)
    expect(images(view)).to_have_count(40)
    expect(view.get_by_role("alert")).to_be_hidden()


def test_warnings_of_the_server_are_shown(view: Any) -> None:
    def warn(route: Any) -> None:
        answer = route.fetch().json()
        route.fulfill(json=answer | {"warnings": ["The text is longer than the model reads."]})

    view.route(SEARCHES, warn)
    search(view, ENGLISH)
    expect(view.get_by_role("list", name="Warnings")).to_contain_text("longer than the model reads")
    view.unroute(SEARCHES)
    search(view, CHINESE)
    expect(view.get_by_text("longer than the model reads")).to_have_count(0)


def test_an_updated_index_is_used_and_said(browser: Any, people: Path, tmp_path: Path) -> None:
    page = small_page(people, tmp_path)
    folder, root, total = page.index.folder, page.index.image_root, len(page.index.paths)
    with running(page) as server, opened(browser, server) as view:
        search(view, ENGLISH)
        expect(view.locator("#about")).to_contain_text(f"{total} images")
        save_image(root / "new.png", seed=77)
        update_index(page.encoder, root, folder)
        view.get_by_role("button", name="Show more").press("Enter")  # pages of one generation only
        expect(view.locator("#notice")).to_contain_text("The index was updated")
        expect(view.locator("#about")).to_contain_text(f"{total + 1} images")
        expect(images(view)).to_have_count(total + 1)
        save_image(root / "newer.png", seed=78)
        update_index(page.encoder, root, folder)
        view.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # the user comes back
        expect(images(view)).to_have_count(total + 1)
        search(view, CHINESE)
        expect(view.locator("#about")).to_contain_text(f"{total + 2} images")


def test_a_missing_image_leaves_a_note_in_its_place(browser: Any, people: Path, tmp_path: Path) -> None:
    page = small_page(people, tmp_path)
    (page.index.image_root / ODD_NAME).unlink()
    with running(page) as server, opened(browser, server) as view:
        search(view, ENGLISH)
        view.get_by_role("button", name="Show more").press("Enter")
        gone = view.locator("#results li").filter(has=view.locator(".path[title*='onerror']"))
        gone.scroll_into_view_if_needed()
        expect(gone).to_contain_text("can no longer be read")
        gone.locator(".image").click()
        expect(view.locator("#stage")).to_contain_text("can no longer be read")


def test_a_password_is_asked_for_and_the_search_goes_on(browser: Any, annotated_page: Page) -> None:
    with (
        running(annotated_page, access=Access("a long secret")) as server,
        opened(browser, server, f"?q={ENGLISH}") as view,
    ):
        dialog = view.get_by_role("dialog")
        view.get_by_label("Password").fill("a guess")
        view.get_by_label("Password").press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("This is not the password")
        view.get_by_label("Password").fill("a long secret")
        view.get_by_role("button", name="Log in").click()
        expect(dialog).to_be_hidden()
        expect(images(view)).to_have_count(40)
        view.reload()
        expect(images(view)).to_have_count(40)
        view.get_by_role("button", name="Log out").click()
        expect(view.get_by_label("Password")).to_be_visible()
