"""Searches: their results, and that they stand in the address of the page."""

from pathlib import Path
from typing import Any

import pytest

from data.formats import read_splits
from misc.search.web.page import Page
from tests.helpers.search import ODD_NAME
from tests.misc.search.browser.window import (
    CHINESE,
    ENGLISH,
    LONG_FOLDER,
    images,
    open_filters,
    opened,
    paths,
    query_of,
    search,
    shown_ids,
    text_field,
)

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("sentence", [ENGLISH, CHINESE])
def test_a_sentence_shows_the_ranked_images(view: Any, annotated_page: Page, sentence: str) -> None:
    search(view, sentence)
    expect(images(view)).to_have_count(40)
    index = annotated_page.index
    scores, rows = index.search(annotated_page.encoder.encode_texts([sentence]).numpy(), 40)
    assert view.locator(".rank").all_inner_texts() == [str(rank) for rank in range(1, 41)]
    assert view.locator(".score").all_inner_texts() == [f"{score:.3f}" for score in scores[0]]
    assert shown_ids(view) == index.ids[rows[0]].tolist()
    expect(view.locator("#results img").first).not_to_have_js_property("naturalWidth", 0)
    expect(view.locator("#status")).to_contain_text(f"40 shown · {len(index.paths)} images")


def test_the_address_keeps_the_whole_search(browser: Any, gallery_view: Any, gallery_server: str) -> None:
    view = gallery_view
    search(view, ENGLISH)
    view.locator(".similar").first.click()
    expect(view.locator("#parts li")).to_have_count(1)
    text_field(view).fill(CHINESE)
    view.get_by_label("Without").fill("a hat, a bag")
    open_filters(view)
    view.get_by_label("Folder").fill("cam_3")
    view.get_by_label("File name").fill("*.jpg")
    view.get_by_label("From, date").fill("2001-02-03")
    view.get_by_label("From, time").fill("04:05")
    view.get_by_label("Width at least").fill("3")
    view.get_by_label("Score at least").fill("-0.9")
    view.get_by_label("Show duplicates as one").uncheck()
    text_field(view).press("Enter")
    expect(view.locator("#active li")).to_have_count(5)
    view.locator("#results[aria-busy=false] li").first.wait_for()
    found, address = paths(view), query_of(view)
    assert found
    assert all(path.startswith("cam_3/") for path in found)
    view.reload()
    for window in (None, {}):  # reloaded, and as someone else opens the address
        page = view if window is None else opened(browser, gallery_server, address.lstrip("/"), **window)
        shared = page if window is None else page.__enter__()
        expect(images(shared)).to_have_count(len(found))
        assert paths(shared) == found
        assert query_of(shared) == address
        expect(text_field(shared)).to_have_value(CHINESE)
        expect(shared.get_by_label("Without")).to_have_value("a hat, a bag")
        open_filters(shared)
        expect(shared.get_by_label("From, time")).to_have_value("04:05")
        expect(shared.get_by_label("Width at least")).to_have_value("3")
        expect(shared.get_by_label("Show duplicates as one")).not_to_be_checked()
        expect(shared.locator("#parts li")).to_have_count(1)
        if window is not None:
            page.__exit__()


def test_back_and_forward_lead_through_the_searches(view: Any) -> None:
    search(view, ENGLISH)
    first = paths(view)
    assert ENGLISH in view.title()
    search(view, CHINESE)
    second = paths(view)
    assert first != second
    view.go_back()
    expect(text_field(view)).to_have_value(ENGLISH)
    expect(view.locator("#results .path").first).to_have_attribute("title", first[0])
    view.go_forward()
    expect(text_field(view)).to_have_value(CHINESE)
    expect(view.locator("#results .path").first).to_have_attribute("title", second[0])
    view.go_back()
    view.go_back()  # before the first search
    expect(images(view)).to_have_count(0)
    expect(view.get_by_role("heading", name="Whom are you looking for?")).to_be_visible()


def test_more_like_this_ranks_similar_images_but_not_the_image(view: Any, annotated_page: Page) -> None:
    search(view, ENGLISH)
    third = shown_ids(view)[2]
    view.locator(".similar").nth(2).click()
    expect(text_field(view)).to_have_value("")
    expect(images(view).first).to_be_focused()
    assert query_of(view) == f"?like={third}"
    index = annotated_page.index
    scores = index.features_of(range(len(index.paths))).astype("float32")
    order = (scores @ scores[index.row_of(third)]).argsort()[::-1]
    assert shown_ids(view)[:3] == index.ids[order].tolist()[1:4]
    assert third not in shown_ids(view)
    view.go_back()
    expect(text_field(view)).to_have_value(ENGLISH)


def test_filters_and_the_threshold_hold_for_the_whole_ranking(gallery_view: Any, gallery: Page) -> None:
    view = gallery_view
    search(view, ENGLISH)
    index = gallery.index
    scores, _ = index.search(gallery.encoder.encode_texts([ENGLISH]).numpy(), len(index.paths))
    fifth = round(float(scores[0][4]) - 0.005, 2)
    passing = int((scores[0] >= fifth).sum())
    open_filters(view)
    view.get_by_label("Score at least").fill(f"{fifth}")
    view.get_by_label("Score at least").press("Tab")  # a change is enough
    expect(view.locator("#status")).to_contain_text(f"{passing} of {len(index.paths)} images score at least")
    view.get_by_role("button", name="Remove the filter: Score").click()
    expect(images(view)).to_have_count(40)
    assert query_of(view) == "?q=" + ENGLISH.replace(" ", "+")
    view.get_by_label("Folder").fill(LONG_FOLDER)
    view.get_by_label("Folder").press("Enter")
    expect(view.locator("#status")).to_contain_text(f"3 of {len(index.paths)} images pass the filters")
    expect(view.locator("#folders option").first).to_be_attached()


def test_more_results_come_by_the_button_and_by_scrolling(gallery_view: Any, gallery: Page) -> None:
    view, groups = gallery_view, len(gallery.index.paths) - 2  # three images are copies
    view.set_viewport_size({"width": 500, "height": 500})
    search(view, ENGLISH)
    expect(images(view)).to_have_count(40)
    view.get_by_role("button", name="Show more").press("Enter")
    expect(images(view)).to_have_count(groups)
    expect(images(view).nth(40)).to_be_focused()
    expect(view.get_by_role("button", name="Show more")).to_be_hidden()
    assert view.locator(".rank").all_inner_texts() == [str(rank) for rank in range(1, groups + 1)]
    assert f"k={groups}" in query_of(view)
    view.reload()  # shows as many as before
    expect(images(view)).to_have_count(groups)
    search(view, CHINESE)
    expect(images(view)).to_have_count(40)
    view.mouse.wheel(0, 100_000)
    expect(images(view)).to_have_count(groups)


def test_searches_of_this_browser_are_kept_until_they_are_cleared(view: Any) -> None:
    search(view, ENGLISH)
    search(view, CHINESE)
    view.reload()
    view.get_by_role("button", name="History").click()
    entries = view.locator("#searches a")
    expect(entries).to_have_text([CHINESE, ENGLISH])
    entries.nth(1).click()
    expect(text_field(view)).to_have_value(ENGLISH)
    view.locator("#results[aria-busy=false]").wait_for()
    view.get_by_role("button", name="History").click()
    expect(entries).to_have_text([ENGLISH, CHINESE])
    view.get_by_role("button", name="Clear history").click()
    expect(entries).to_have_count(0)
    assert view.evaluate("localStorage.searches") == "[]"


def test_correct_and_wrong_images_are_framed_and_recall_is_updated(
    view: Any, annotated_page: Page, people: Path
) -> None:
    records = read_splits(people, ["test"])["test"]["en"]
    person_of = {record.image: record.person_id for record in records}
    ranks = []
    for record in (records[0], records[5]):
        search(view, record.captions[0])
        feature = annotated_page.encoder.encode_texts([record.captions[0]]).numpy()
        rows = annotated_page.index.search(feature, 200)[1][0]
        found = [person_of.get(annotated_page.index.paths[row]) for row in rows]
        ranks.append(found.index(record.person_id) + 1)
        shares = [f"R@{k} {100 * sum(r <= k for r in ranks) / len(ranks):.1f} %" for k in (1, 5, 10)]
        expect(view.locator("#recall")).to_contain_text(f"{len(ranks)} annotated sentence")
        expect(view.locator("#recall")).to_contain_text(" · ".join(shares))
        classes = view.locator("#results li").evaluate_all("all => all.map(item => item.className)")
        assert classes == [
            "" if person is None else "right" if person == record.person_id else "wrong"
            for person in found[:40]
        ]
        assert view.get_by_role("img", name="another person").count() == classes.count("wrong")
        assert view.get_by_role("img", name="the correct person").count() == classes.count("right")
    search(view, "nobody's caption")
    expect(view.locator("#results li.wrong")).to_have_count(0)
    expect(view.locator("#recall")).to_contain_text("2 annotated sentences")


def test_an_example_is_one_click(view: Any) -> None:
    example = view.locator("#examples button").first
    words = example.inner_text()
    example.click()
    expect(text_field(view)).to_have_value(words)
    expect(images(view)).to_have_count(40)


def test_markup_in_a_file_name_is_shown_as_text(view: Any) -> None:
    search(view, ENGLISH)
    view.get_by_role("button", name="Show more").press("Enter")
    odd = ODD_NAME.encode(errors="replace").decode()
    item = view.locator("#results li").filter(has=view.locator(".path[title*='onerror']"))
    expect(item.locator(".path")).to_have_text(odd)
    item.locator(".image").click()
    expect(view.locator("#viewer-name")).to_have_text(odd)
    assert view.title() == f"{ENGLISH} – Person search"
