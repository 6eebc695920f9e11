"""The page of an index of people: the scene around a person, the video, one place per file, hours."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from data.images.regions import place_of
from misc.search.web.page import Page
from tests.helpers.search import FRAME_RATE, HOURS, SPAN, people_page, running, street, write_video
from tests.misc.search.browser.window import (
    ENGLISH,
    PHONE,
    expect_no_violations,
    images,
    open_filters,
    opened,
    paths,
    query_of,
    search,
    shown_ids,
)

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.slow

PHOTO = "entrance/0.png/20,60,50,150"
BEST = "yard/walk.mp4/2.400s/116,50,50,150"
ENDED = "() => player.paused && player.played.length && !player.seeking"


@pytest.fixture
def video() -> str:
    pytest.importorskip("av", reason="no videos: pip install av")
    return BEST


def open_person(view: Any, page: Page, path: str) -> int:
    """Search, and open the large view of this entry; returns its id."""
    search(view, ENGLISH)
    number = int(page.index.ids[page.index.paths.index(path)])
    view.locator(f"#results li:has(img[data-id='{number}']) .image").click()
    return number


def expect_marked(view: Any, box: tuple[int, ...], scene: tuple[int, int] = (320, 240)) -> None:
    """The mark is where the box is in the scene, as it is shown."""
    mark, image = view.locator("#scene-box"), view.locator("#scene-image")
    expect(mark).to_be_visible()
    found, whole = mark.bounding_box(), image.bounding_box()
    assert whole["width"] / whole["height"] == pytest.approx(scene[0] / scene[1], rel=0.01)
    scale = whole["width"] / scene[0]
    expected = [whole["x"] + scale * box[0], whole["y"] + scale * box[1], scale * box[2], scale * box[3]]
    assert [found[name] for name in ("x", "y", "width", "height")] == pytest.approx(expected, abs=1)
    stage = view.locator("#stage").bounding_box()
    assert stage["x"] <= whole["x"]
    assert whole["x"] + whole["width"] <= stage["x"] + stage["width"]
    assert whole["y"] + whole["height"] <= view.locator("#views").bounding_box()["y"]


def test_a_result_names_its_file_and_the_time_of_its_track(page_of_people: Page, people_view: Any) -> None:
    view = people_view
    expect(view.locator("#about")).to_contain_text("entries of people in photos")
    search(view, ENGLISH)
    expected = {path: place_of(path).file for path in page_of_people.index.paths}
    assert sorted(paths(view)) == sorted(expected.values())
    spans = view.locator("#results .span:visible")
    if BEST in expected:
        expect(spans).to_have_text(["0:01 to 0:04"])
        name = "yard/walk.mp4, 0:01 to 0:04: open"
        expect(view.get_by_role("button", name=name)).to_have_count(1)


@pytest.mark.parametrize("window", [{}, PHONE], ids=["desktop", "phone"])
def test_the_person_is_marked_in_the_scene(
    browser: Any, page_of_people: Page, people_server: str, window: dict[str, Any]
) -> None:
    with opened(browser, people_server, **window) as view:
        number = open_person(view, page_of_people, PHOTO)
        person, scene = view.locator("#view-person"), view.locator("#view-scene")
        expect(person).to_have_attribute("aria-pressed", "true")
        expect(view.locator("#facts")).to_contain_text("50 × 150 pixels")
        expect(view.locator("#viewer-name")).to_have_text("0.png")
        scene.click()
        expect(scene).to_have_text("Photo")
        expect(scene).to_have_attribute("aria-pressed", "true")
        expect(view.locator("#viewer-image")).to_be_hidden()
        expect_marked(view, (20, 60, 50, 150))
        said = "The person: 50 × 150 pixels, 20 from the left and 60 from the top of 320 × 240"
        expect(view.get_by_role("img", name=said)).to_be_visible()
        assert query_of(view).endswith(f"#image-{number}/scene")
        view.reload()
        expect_marked(view, (20, 60, 50, 150))
        view.keyboard.press("w")
        expect(view.locator("#viewer-image")).to_be_visible()
        expect(view.locator("#scene")).to_be_hidden()
        assert query_of(view).endswith(f"#image-{number}")
        view.go_back()
        expect(view.get_by_role("dialog")).to_be_hidden()


def test_arrow_keys_keep_the_view_and_where_leads_to_the_person(
    page_of_people: Page, people_view: Any
) -> None:
    view = people_view
    search(view, ENGLISH)
    by_id = page_of_people.index.paths_of(shown_ids(view))
    places = [place_of(by_id[number]) for number in shown_ids(view)]
    start = next(number for number, place in enumerate(places) if place.box)
    images(view).nth(start).click()
    view.keyboard.press("w")
    for place in places[start + 1 :]:
        view.keyboard.press("ArrowRight")
        expect(view.locator("#viewer-name")).to_have_text(Path(place.file).name)
        if place.box:
            expect(view.locator("#scene-image")).to_have_js_property("naturalWidth", 320)
            expect_marked(view, place.box)
        else:
            expect(view.locator("#viewer-image")).to_be_visible()  # of nobody there is nothing else
    view.keyboard.press("e")
    expect(view.locator("#viewer-where")).to_have_attribute("aria-pressed", "true")
    expect(view.locator("#viewer-image")).to_have_attribute("src", re.compile("^blob:"))
    expect(view.locator("#scene")).to_be_hidden()


def test_the_video_plays_from_where_the_person_comes_to_where_the_person_goes(
    page_of_people: Page, people_view: Any, video: str
) -> None:
    view = people_view
    if not view.evaluate("""player.canPlayType('video/mp4; codecs="avc1.64000C"')"""):
        pytest.skip("this Chromium has no H.264")
    number = open_person(view, page_of_people, video)
    view.get_by_role("button", name="Video").click()
    view.wait_for_function(ENDED)
    first, last, now = view.evaluate("[player.played.start(0), player.played.end(0), player.currentTime]")
    assert first == pytest.approx(SPAN[0], abs=0.1)
    assert SPAN[1] - 0.1 <= last <= 6
    assert now == pytest.approx(SPAN[1], abs=0.1)
    assert query_of(view).endswith(f"#image-{number}/video")
    view.get_by_role("button", name="Repeat").click()
    view.wait_for_function("() => !player.paused && player.currentTime < 3.9")
    view.evaluate("player.starts = 0; player.onseeked = () => player.starts++; player.playbackRate = 4")
    view.locator("#player").focus()
    view.keyboard.press("ArrowLeft")  # is the player's
    expect(view.locator("#viewer-name")).to_have_text("walk.mp4")
    view.keyboard.press("v")
    view.wait_for_function("() => player.starts > 3 && !player.paused && player.currentTime < 4")
    view.keyboard.press("w")
    expect_marked(view, (116, 50, 50, 150))
    assert view.evaluate("document.querySelector('#viewer').contains(document.activeElement)")
    assert view.evaluate("[player.paused, player.hasAttribute('src')]") == [True, False]


def test_a_video_that_the_browser_cannot_play_is_its_frame_and_a_download(
    browser: Any, people: Path, tmp_path: Path, video: str
) -> None:
    page = people_page(people, tmp_path)
    path = page.index.image_root / "yard/walk.mp4"
    write_video(path, [street(3)] * 6 * FRAME_RATE, FRAME_RATE, codec="mpeg4")
    with running(page) as server, opened(browser, server) as view:
        open_person(view, page, video)
        view.keyboard.press("v")
        expect(view.get_by_text("This browser cannot play this video")).to_be_visible()
        expect_marked(view, (116, 50, 50, 150))
        expect(view.get_by_role("button", name="Video")).to_be_hidden()
        with view.expect_download() as download:
            view.get_by_role("link", name="Download the video").click()
        download.value.save_as(tmp_path / "copy.mp4")
        assert (tmp_path / "copy.mp4").read_bytes() == path.read_bytes()


def test_other_pictures_of_a_track(page_of_people: Page, people_view: Any, video: str) -> None:
    view = people_view
    number = open_person(view, page_of_people, video)
    pictures = view.locator("#track button")
    expect(pictures).to_have_count(3)
    view.keyboard.press("w")
    pictures.nth(2).press("Enter")
    expect(pictures.nth(2)).to_have_attribute("aria-current", "true")
    expect(pictures.nth(2)).to_be_focused()
    expect(view.locator("#scene-image")).to_have_attribute("src", f"api/images/{number}/scene?crop=2")
    expect_marked(view, (20 + 8 * 16, 50, 50, 150))
    view.keyboard.press("w")
    expect(view.locator("#viewer-image")).to_have_attribute("src", f"api/images/{number}/view?crop=2")
    view.keyboard.press("ArrowLeft")
    expect(view.locator("#viewer-name")).not_to_have_text("walk.mp4")
    expect(pictures).to_have_count(0)


def test_one_place_per_photo_or_video_whose_count_opens_the_others(people_view: Any) -> None:
    view = people_view
    search(view, ENGLISH)
    everyone = images(view).count()
    open_filters(view)
    view.get_by_label("One per photo or video").check()
    files = len(set(paths(view)))
    expect(images(view)).to_have_count(files)
    assert files < everyone
    assert "per_file=1" in query_of(view)
    others = view.get_by_role("button", name="show 1 other of this photo")
    expect(others).to_have_count(4)
    others.first.click()
    expect(view.locator("#others h3")).to_have_text("Found in this photo")
    people = view.locator("#others button")
    expect(people.nth(0)).to_have_attribute("aria-current", "true")
    before = query_of(view)
    people.nth(1).press("Enter")
    expect(people.nth(1)).to_have_attribute("aria-current", "true")
    expect(people.nth(1)).to_be_focused()
    expect(view.locator("#facts")).to_contain_text("Detector")
    assert query_of(view) != before
    view.keyboard.press("w")
    expect(view.locator("#scene-box")).to_be_visible()
    view.go_back()
    expect(view.get_by_role("dialog")).to_be_hidden()
    view.go_back()
    expect(images(view)).to_have_count(everyone)
    expect(view.get_by_label("One per photo or video")).not_to_be_checked()


def open_other(view: Any) -> str:
    """Open the second person of the first photo that has others, one place per file; returns its id."""
    view.get_by_role("button", name="show 1 other of this photo").first.click()
    view.locator("#others button").nth(1).click()
    expect(view.locator("#others button").nth(1)).to_have_attribute("aria-current", "true")
    return view.locator("#viewer-image").get_attribute("data-id")


def test_who_is_shown_in_the_large_view_is_selected_not_the_best_person_of_the_photo(
    page_of_people: Page, people_view: Any, tmp_path: Path
) -> None:
    view = people_view
    view.goto(f"{view.url}?q={ENGLISH}&per_file=1")
    number = open_other(view)
    expect(view.locator("#viewer-select")).to_have_attribute("aria-pressed", "false")
    view.keyboard.press("x")
    expect(view.locator("#viewer-select")).to_have_attribute("aria-pressed", "true")
    view.keyboard.press("Escape")
    expect(view.locator("#num-selected")).to_have_text("1 selected")
    assert view.locator("#results li.selected").count() == 0
    with view.expect_download() as download:
        view.get_by_role("group", name="Selected images").get_by_role("button", name="CSV").click()
    download.value.save_as(tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(encoding="utf-8-sig", newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert (row["id"], row["path"]) == (number, page_of_people.index.paths_of([int(number)])[int(number)])
    assert (row["rank"], row["score"]) == ("", "")  # it has no place of its own


def test_an_explanation_that_comes_late_does_not_replace_that_of_another_crop(
    page_of_people: Page, people_view: Any, video: str
) -> None:
    view, waiting = people_view, []
    open_person(view, page_of_people, video)
    pictures, image = view.locator("#track button"), view.locator("#viewer-image")
    expect(pictures).to_have_count(3)
    view.route("**/explain", lambda route: waiting.append(route))  # of the best crop
    view.keyboard.press("e")
    pictures.nth(2).click()
    view.keyboard.press("e")
    expect(image).to_have_attribute("src", re.compile("^blob:"))
    shown = image.get_attribute("src")
    with view.expect_response("**/explain"):
        waiting[0].continue_()
    view.wait_for_load_state("networkidle")
    assert image.get_attribute("src") == shown
    expect(view.locator("#viewer-where")).not_to_have_attribute("aria-busy", "true")


def test_a_picture_that_fails_late_does_not_hide_the_view_that_is_shown(
    page_of_people: Page, people_view: Any
) -> None:
    view, waiting = people_view, []
    view.route("**/view", lambda route: waiting.append(route))
    open_person(view, page_of_people, PHOTO)
    view.keyboard.press("w")
    expect_marked(view, (20, 60, 50, 150))
    waiting[0].abort()
    view.wait_for_function("document.querySelector('#viewer-image').complete")
    expect(view.locator("#viewer-missing")).to_be_hidden()
    expect(view.locator("#scene-box")).to_be_visible()


def test_the_large_view_opens_where_there_are_no_others_any_more(people_view: Any) -> None:
    """As after an update of the index."""
    view = people_view
    view.goto(f"{view.url}?q={ENGLISH}&per_file=1")
    view.get_by_role("button", name="show 1 other of this photo").first.click()
    expect(view.locator("#others")).to_be_visible()
    view.evaluate("history.replaceState(history.state, '', location.href.replace('&per_file=1', ''))")
    view.reload()
    expect(view.get_by_role("dialog")).to_be_visible()
    expect(view.locator("#others")).to_be_hidden()
    expect(view.locator("#problem")).to_be_hidden()


def test_a_picture_at_the_start_of_a_video_says_so(
    page_of_people: Page, people_view: Any, video: str
) -> None:
    view = people_view
    view.route("**/api/images/*", lambda route: route.fulfill(json={**route.fetch().json(), "time": 0}))
    open_person(view, page_of_people, video)
    expect(view.locator("#facts")).to_contain_text("at 0.0 seconds")


def test_hours_in_any_spelling_of_the_api_are_those_of_the_form(people_view: Any) -> None:
    view = people_view
    view.goto(f"{view.url}?q={ENGLISH}&hours=8:00 – 17:30")
    open_filters(view)
    expect(view.get_by_label("Hours, from")).to_have_value("08:00")
    expect(view.get_by_label("Hours, until")).to_have_value("17:30")
    view.get_by_label("One per photo or video").check()
    expect(view.get_by_role("button", name="Hours 08:00 to 17:30")).to_be_visible()


def test_hours_of_the_day_may_wrap_around_midnight(people_view: Any) -> None:
    view = people_view
    search(view, ENGLISH)
    everything = images(view).count()
    open_filters(view)
    view.get_by_label("Hours, from").fill("18:00")
    expect(view.get_by_role("button", name="Hours 18:00 to 23:59")).to_be_visible()
    view.get_by_label("Hours, until").fill("06:30")
    expect(view.get_by_role("button", name="Hours 18:00 to 06:30")).to_be_visible()
    view.locator("#results[aria-busy=false]").wait_for()
    assert {HOURS[path] for path in paths(view)} <= {18, 21, 6}
    assert "hours=18:00-06:30" in query_of(view)
    view.reload()
    expect(view.get_by_label("Hours, until")).to_have_value("06:30")
    view.get_by_role("button", name="Hours 18:00 to 06:30").click()
    expect(images(view)).to_have_count(everything)
    assert "hours" not in query_of(view)


def test_crops_are_downloaded(people_view: Any, tmp_path: Path) -> None:
    view = people_view
    search(view, ENGLISH)
    view.get_by_label("Select rank 1", exact=True).check(force=True)
    with view.expect_download() as download:
        view.get_by_role("button", name="Crops").click()
    assert download.value.suggested_filename == "crops.zip"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("window", [{}, PHONE], ids=["desktop", "phone"])
def test_no_state_of_the_page_of_people_violates_accessibility(
    browser: Any, page_of_people: Page, people_server: str, window: dict[str, Any], scheme: str
) -> None:
    with opened(browser, people_server, color_scheme=scheme, bypass_csp=True, **window) as view:
        search(view, ENGLISH)
        open_filters(view)
        view.get_by_label("One per photo or video").check()
        view.get_by_label("Hours, from").fill("05:00")
        expect(view.locator("#active li")).to_have_count(1)
        view.locator("#results[aria-busy=false]").wait_for()
        view.get_by_label("Select rank 1", exact=True).check(force=True)
        expect_no_violations(view)
        view.locator(".others:visible").first.click()
        expect(view.locator("#viewer-image")).not_to_have_js_property("naturalWidth", 0)
        expect_no_violations(view)
        view.keyboard.press("w")
        expect(view.locator("#scene-box")).to_be_visible()
        expect_no_violations(view)
        if BEST not in page_of_people.index.paths:
            return
        number = page_of_people.index.ids[page_of_people.index.paths.index(BEST)]
        view.goto(f"{people_server}/?q={ENGLISH}#image-{number}/video")
        expect(view.locator("#player")).to_be_visible()
        expect(view.locator("#track button")).to_have_count(3)
        expect_no_violations(view)
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_everything_of_a_person_can_be_reached_with_the_keyboard(
    page_of_people: Page, people_view: Any, video: str
) -> None:
    view = people_view
    open_person(view, page_of_people, video)
    expect(view.locator("#track button")).to_have_count(3)
    reached = set()
    for _ in range(30):
        view.keyboard.press("Tab")
        reached.add(
            view.evaluate("document.activeElement.id || document.activeElement.closest('section')?.id")
        )
    assert reached >= {"view-person", "view-scene", "view-video", "track", "viewer-similar", "close-viewer"}


def test_of_whole_images_the_page_is_as_it_was(view: Any) -> None:
    search(view, ENGLISH)
    open_filters(view)
    assert view.locator(".of-people:visible, .span:visible, .others:visible").count() == 0
    assert view.locator("#filters .field:visible, #filters .check:visible").count() == 8
    images(view).first.click()
    for key in ("w", "v"):
        view.keyboard.press(key)
    expect(view.locator("#viewer-image")).to_be_visible()
    assert view.locator("#views:visible, #track:visible, #others:visible, #player:visible").count() == 0
    expect(view.locator("#facts dt")).to_have_text(["Size", "Id"])
    assert re.fullmatch(r".*#image-\d+", query_of(view))
