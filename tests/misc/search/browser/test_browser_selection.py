"""Images that the user selects: export and feedback."""

import csv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from misc.search.web.page import Page
from tests.misc.search.browser.window import ENGLISH, images, paths, query_of, search, shown_ids

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.slow


def pick(view: Any, number: int, **click: Any) -> None:
    view.get_by_label(f"Select rank {number + 1}", exact=True).click(force=True, **click)


def saved(view: Any, button: Any, folder: Path) -> Path:
    with view.expect_download() as download:
        button.click()
    download.value.save_as(folder / download.value.suggested_filename)
    return folder / download.value.suggested_filename


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines))


def test_images_are_selected_by_mouse_range_and_key(view: Any) -> None:
    search(view, ENGLISH)
    count = view.locator("#num-selected")
    pick(view, 1)
    expect(count).to_have_text("1 selected")
    pick(view, 4, modifiers=["Shift"])
    expect(count).to_have_text("4 selected")
    images(view).nth(9).focus()
    view.keyboard.press("x")
    expect(count).to_have_text("5 selected")
    images(view).first.click()
    view.keyboard.press("x")
    view.keyboard.press("Escape")
    expect(count).to_have_text("6 selected")
    assert view.locator("#results li.selected").count() == 6
    view.get_by_role("button", name="Clear the selection").click()
    expect(view.get_by_role("group", name="Selected images")).to_be_hidden()
    assert view.locator("#results li.selected").count() == 0
    view.get_by_role("button", name="Select all").click()
    expect(count).to_have_text("40 selected")


def test_the_csv_holds_what_is_shown_or_selected(view: Any, tmp_path: Path) -> None:
    search(view, 'a "red" coat, 红色')
    found = paths(view)
    rows = rows_of(saved(view, view.get_by_role("button", name="Download CSV"), tmp_path))
    assert [row["image"] for row in rows] == found
    assert {row["query"] for row in rows} == {'a "red" coat, 红色'}
    pick(view, 2)
    pick(view, 5)
    bar = view.get_by_role("group", name="Selected images")
    rows = rows_of(saved(view, bar.get_by_role("button", name="CSV"), tmp_path))
    assert [row["image"] for row in rows] == [found[2], found[5]]


def test_the_zip_holds_the_selected_images(view: Any, annotated_page: Page, tmp_path: Path) -> None:
    search(view, ENGLISH)
    pick(view, 0)
    pick(view, 3)
    file = saved(view, view.get_by_role("button", name="ZIP"), tmp_path)
    found = paths(view)
    with zipfile.ZipFile(file) as archive:
        contents = sorted(archive.read(name) for name in archive.namelist())
    root = annotated_page.index.image_root
    assert contents == sorted((root / found[number]).read_bytes() for number in (0, 3))


@pytest.mark.parametrize("kind", ["more", "less"])
def test_selected_images_give_feedback(view: Any, kind: str) -> None:
    search(view, ENGLISH)
    ids = shown_ids(view)
    pick(view, 3)
    pick(view, 7)
    view.get_by_role("button", name=f"{kind.title()} of these").click()
    expect(view.locator(f"#parts li[data-kind={kind}]")).to_have_count(2)
    expect(view.locator("#results[aria-busy=false]")).to_be_visible()
    assert query_of(view).endswith(f"&{kind}={ids[3]},{ids[7]}")
    expect(view.get_by_role("group", name="Selected images")).to_be_hidden()
