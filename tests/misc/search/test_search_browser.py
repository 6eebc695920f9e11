"""The search page in a browser: headless Chromium, as Debian has it (`apt-get install chromium`)."""

import csv
import os
import re
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.formats import read_splits
from misc.search.index import Index
from misc.search.truth import load_ground_truth
from misc.search.web.page import Page
from tests.helpers.search import ODD_NAME, running, small_page

playwright = pytest.importorskip("playwright.sync_api", reason="no browser test: pip install playwright")
expect = playwright.expect
pytestmark = pytest.mark.slow

PICTURE = "SEARCH_PICTURE"  # an environment variable: where the README's picture goes
ENGLISH, CHINESE = "a woman in a red coat with a black bag", "一名穿红色外套的女子"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no browser test: there is no Chromium (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])  # root has none
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(annotated_page: Page) -> Iterator[str]:
    with running(annotated_page) as address:
        yield address


@pytest.fixture
def view(browser: Any, server: str) -> Iterator[Any]:
    """The page in a window of its own; it may request nothing but from its server, and no script may fail."""
    with opened(browser, server) as page:
        yield page


class opened:  # noqa: N801
    """A window on the page."""

    def __init__(self, browser: Any, server: str, **window: Any) -> None:
        self.context = browser.new_context(**window)
        self.server, self.requested, self.errors = server, [], []

    def __enter__(self) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(self.server)
        return page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert not self.errors
        assert all(url.startswith((self.server, "blob:", "data:")) for url in self.requested), self.requested


def type_and_search(view: Any, sentence: str) -> None:
    view.get_by_label("Description of the person").fill(sentence)
    view.get_by_role("button", name="Search", exact=True).click()


def images(view: Any) -> Any:
    return view.get_by_role("button", name="find similar people")


@pytest.mark.parametrize("sentence", [ENGLISH, CHINESE])
def test_a_sentence_shows_the_ranked_images(view: Any, annotated_page: Page, sentence: str) -> None:
    type_and_search(view, sentence)
    expect(images(view)).to_have_count(20)
    feature = annotated_page.encoder.encode_texts([sentence]).numpy()
    scores, rows = annotated_page.index.search(feature, 20)
    assert view.locator(".rank").all_inner_texts() == [str(rank) for rank in range(1, 21)]
    assert view.locator(".score").all_inner_texts() == [f"{score:.3f}" for score in scores[0]]
    assert view.locator("#results img").evaluate_all("all => all.map(i => i.getAttribute('src'))") == [
        f"image/{row}" for row in rows[0]
    ]
    view.wait_for_function("document.querySelector('#results img').naturalWidth > 0")
    expect(view.get_by_role("status")).to_contain_text(f"20 of {len(annotated_page.index.paths)} images")


def test_a_click_on_an_image_searches_for_similar_people_and_back_returns(view: Any) -> None:
    type_and_search(view, ENGLISH)
    third = view.locator(".path").nth(2).inner_text()
    images(view).nth(2).click()
    expect(view.locator("#query-name")).to_have_text(third)
    expect(view.locator(".path").first).to_have_text(third)
    expect(view.locator(".score").first).to_have_text("1.000")
    expect(view.get_by_label("Description of the person")).to_have_value("")
    view.go_back()
    expect(view.get_by_label("Description of the person")).to_have_value(ENGLISH)
    expect(view.locator(".path").nth(2)).to_have_text(third)
    expect(view.locator("#query-image")).to_be_hidden()


def test_the_csv_holds_what_is_shown(view: Any, tmp_path: Path) -> None:
    type_and_search(view, 'a "red" coat, 红色')
    expect(images(view)).to_have_count(20)
    fifth = view.locator(".score").nth(4).inner_text()
    view.get_by_label("Score at least").fill(f"{float(fifth) - 0.006:.2f}")
    shown = view.locator(".path").all_inner_texts()
    assert 5 <= len(shown) < 20
    with view.expect_download() as download:
        view.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "results.csv"
    download.value.save_as(tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == shown
    assert {row["query"] for row in rows} == {'a "red" coat, 红色'}
    scores = view.locator(".score").all_inner_texts()
    assert [f"{float(row['score']):.3f}" for row in rows] == scores


def test_the_overlay_comes_and_goes(view: Any) -> None:
    type_and_search(view, ENGLISH)
    toggle, image = view.locator(".explain").nth(1), view.locator("#results img").nth(1)
    plain = image.get_attribute("src")
    toggle.click()
    expect(toggle).to_have_attribute("aria-pressed", "true")
    assert image.get_attribute("src").startswith("blob:")
    view.wait_for_function("document.querySelectorAll('#results img')[1].naturalWidth > 0")
    toggle.click()
    expect(image).to_have_attribute("src", plain)
    images(view).first.click()  # a query without a sentence has nothing to explain
    expect(view.locator("#query-image")).to_be_visible()
    expect(view.locator(".explain").first).to_be_hidden()


def test_correct_and_wrong_images_are_framed_and_recall_is_updated(
    view: Any, annotated_page: Page, people: Path
) -> None:
    records = read_splits(people, ["test"])["test"]["en"]
    person_of = {record.image: record.person_id for record in records}
    ranks = []
    for record in (records[0], records[5]):
        type_and_search(view, record.captions[0])
        feature = annotated_page.encoder.encode_texts([record.captions[0]]).numpy()
        rows = annotated_page.index.search(feature, 200)[1][0]
        found = [person_of.get(annotated_page.index.paths[row]) for row in rows]
        ranks.append(found.index(record.person_id) + 1)
        count = f"{len(ranks)} annotated sentence"
        shares = [f"R@{k} {100 * sum(r <= k for r in ranks) / len(ranks):.1f} %" for k in (1, 5, 10)]
        expect(view.locator("#recall")).to_contain_text(count)
        expect(view.locator("#recall")).to_contain_text(" · ".join(shares))
        classes = view.locator("#results li").evaluate_all("all => all.map(item => item.className)")
        assert classes == [
            "" if person is None else "right" if person == record.person_id else "wrong"
            for person in found[:20]
        ]
        assert view.get_by_role("img", name="another person").count() == classes.count("wrong")
        assert view.get_by_role("img", name="the correct person").count() == classes.count("right")
    type_and_search(view, "nobody's caption")
    expect(view.locator("#results li.wrong")).to_have_count(0)
    expect(view.locator("#recall")).to_contain_text("2 annotated sentences")


def test_an_example_is_one_click(view: Any) -> None:
    example = view.locator("#examples button").first
    example.click()
    expect(view.get_by_label("Description of the person")).to_have_value(example.inner_text())
    expect(images(view)).to_have_count(20)


def test_everything_works_with_the_keyboard(view: Any) -> None:
    press = view.keyboard.press
    expect(view.get_by_label("Description of the person")).to_be_focused()
    view.keyboard.type(ENGLISH)
    press("Enter")
    expect(images(view)).to_have_count(20)
    for _ in range(30):
        press("Tab")
        if view.evaluate("document.activeElement.className") == "image":
            break
    expect(images(view).first).to_be_focused()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        press(key)
    expect(images(view).nth(1)).to_be_focused()
    outline = view.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # visible
    press("e")
    expect(view.locator(".explain").nth(1)).to_have_attribute("aria-pressed", "true")
    second = view.locator(".path").nth(1).inner_text()
    press("Enter")
    expect(view.locator("#query-name")).to_have_text(second)
    expect(images(view).first).to_be_focused()
    press("/")
    expect(view.get_by_label("Description of the person")).to_be_focused()
    assert view.get_by_label("Description of the person").input_value() == ""


def test_everything_has_a_name_for_screen_readers(view: Any) -> None:
    type_and_search(view, ENGLISH)
    expect(images(view)).to_have_count(20)
    snapshot = view.locator("body").aria_snapshot()
    for role in ("button", "textbox", "spinbutton", "list", "navigation"):
        lines = [line.strip() for line in snapshot.splitlines() if re.match(rf"- {role}\b", line.strip())]
        assert lines, role
        assert all('"' in line for line in lines), lines


def test_a_phone_shows_it_without_scrolling_sideways(browser: Any, server: str) -> None:
    window = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    with opened(browser, server, **window) as view:
        view.get_by_label("Description of the person").fill(CHINESE)
        view.get_by_role("button", name="Search", exact=True).tap()
        expect(images(view)).to_have_count(20)
        assert view.evaluate("document.documentElement.scrollWidth") == 360
        boxes = [image.bounding_box() for image in images(view).all()[:3]]
        assert len({box["y"] for box in boxes}) == 1  # three beside each other,
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in boxes)
        assert boxes[0]["y"] < 740  # the first in sight
        images(view).nth(1).tap()
        expect(view.locator("#query-image")).to_be_visible()


@pytest.mark.parametrize(
    ("sentence", "message"), [("", "Describe a person first"), (" ... ", "words that describe a person")]
)
def test_invalid_queries_are_reported_on_the_page(view: Any, sentence: str, message: str) -> None:
    type_and_search(view, sentence)
    expect(view.get_by_role("status")).to_contain_text(message)
    expect(images(view)).to_have_count(0)
    type_and_search(view, "红" * 10_000)
    expect(images(view)).to_have_count(20)


def test_markup_in_a_file_name_is_shown_as_text(view: Any) -> None:
    view.get_by_label("Images").fill("200")
    view.get_by_label("Images").evaluate("input => input.max = 200")
    type_and_search(view, ENGLISH)
    odd = ODD_NAME.encode(errors="replace").decode()
    expect(view.locator(".path", has_text="onerror")).to_have_text(odd)
    view.get_by_role("listitem").filter(has_text="onerror").get_by_role("button").first.click()
    expect(view.locator("#query-name")).to_have_text(odd)
    assert view.title() == "Person search"


def test_a_missing_image_leaves_a_note_in_its_place(browser: Any, people: Path, tmp_path: Path) -> None:
    page = small_page(people, tmp_path)
    (page.index.image_root / ODD_NAME).unlink()
    with running(page) as server, opened(browser, server) as view:
        view.get_by_label("Images").fill(str(len(page.index.paths)))
        type_and_search(view, ENGLISH)
        gone = view.get_by_role("listitem").filter(has_text="onerror")
        gone.scroll_into_view_if_needed()
        expect(gone).to_contain_text("can no longer be read")
        gone.get_by_role("button").first.click()
        expect(view.get_by_role("status")).to_contain_text("it is not there")


def test_a_server_that_stopped_is_reported(browser: Any, annotated_page: Page) -> None:
    with running(annotated_page) as server:
        window = opened(browser, server)
        view = window.__enter__()
        view.wait_for_load_state("networkidle")
    type_and_search(view, ENGLISH)
    expect(view.get_by_role("status")).to_contain_text("does not answer")
    window.context.close()


def test_a_picture_of_the_page(browser: Any, annotated_page: Page, tmp_path: Path) -> None:
    """The README's is of the index that `make demo-search` leaves: SEARCH_PICTURE=docs/search-page.png."""
    page, place = annotated_page, os.environ.get(PICTURE, tmp_path / "page.png")
    if PICTURE in os.environ:
        index = Index.open(Path("runs/demo-search/index"))
        encoder = index.load_encoder()
        truth = load_ground_truth(index, Path("datasets/demo"))
        page = Page(index, encoder, truth)
    with running(page) as server, opened(browser, server, viewport={"width": 1280, "height": 860}) as view:
        view.locator("#examples button").first.click()
        expect(images(view)).to_have_count(20)
        view.wait_for_load_state("networkidle")
        for number in (0, 2):
            view.locator(".explain").nth(number).click()
            expect(view.locator(".explain").nth(number)).to_have_attribute("aria-pressed", "true")
        view.wait_for_load_state("networkidle")
        view.mouse.move(0, 0)
        picture = Image.open(BytesIO(view.screenshot()))
    assert picture.size == (1280, 860)
    assert len(picture.convert("RGB").resize((64, 43)).getcolors(64 * 43)) > 300  # people, no blank page
    picture.convert("RGB").quantize(256).save(place, optimize=True)
