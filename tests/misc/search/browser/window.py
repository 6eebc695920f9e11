"""A window of a browser on the search page, and what tests do in it."""

from collections.abc import Callable
from typing import Any

import pytest

ENGLISH, CHINESE = "a woman in a red coat with a black bag", "一名穿红色外套的女子"
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
WIDE_NAME = "panorama.png"
LONG_FOLDER = "archive 2024/warehouse, north entrance/camera 17 (upper floor)"
ARABIC_NAME = "صورة شخص.png"


class opened:  # noqa: N801
    """A page in a window of its own, which `before` prepares; it may request nothing but from its server, and
    no script may fail.
    """

    def __init__(
        self,
        browser: Any,
        server: str,
        query: str = "",
        before: Callable[[Any], None] = lambda page: None,
        **window: Any,
    ) -> None:
        self.context = browser.new_context(**window)
        self.server, self.query, self.before = server, query, before
        self.requested: list[str] = []
        self.errors: list[str] = []

    def __enter__(self) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.before(page)
        page.goto(f"{self.server}/{self.query}")
        page.locator("#about:not(:empty)").or_(page.locator("dialog[open]")).first.wait_for()
        return page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert not self.errors
        assert all(url.startswith((self.server, "blob:", "data:")) for url in self.requested), self.requested


def text_field(view: Any) -> Any:
    return view.get_by_label("Description of the person")


def search(view: Any, sentence: str) -> None:
    """Type a sentence and search for it; returns when the results are there."""
    text_field(view).fill(sentence)
    submit(view)
    view.locator("#results[aria-busy=false] li").first.wait_for()


def submit(view: Any) -> None:
    view.get_by_role("button", name="Search", exact=True).click()


def images(view: Any) -> Any:
    """The images of the results, each a button that opens the large view."""
    return view.locator("#results .image")


def paths(view: Any) -> list[str]:
    """The paths of the results, also where they are shortened on the screen."""
    return view.locator("#results .path").evaluate_all("all => all.map(path => path.title)")


def shown_ids(view: Any) -> list[int]:
    """The ids of the results."""
    sources = view.locator("#results img").evaluate_all("all => all.map(image => image.dataset.id)")
    return list(map(int, sources))


def open_filters(view: Any) -> None:
    view.get_by_role("button", name="Filters").click()


def query_of(view: Any) -> str:
    """The part of the address from the question mark on."""
    return view.evaluate("location.search + location.hash")


def expect_no_violations(view: Any) -> None:
    """Of the rules of WCAG 2.2 AA that axe can check, and of its best practices; `bypass_csp` lets it in."""
    name = "axe_playwright_python.sync_playwright"
    axe = pytest.importorskip(name, reason="pip install axe-playwright-python")
    found = axe.Axe().run(view, options=RULES)
    assert not found.response["violations"], found.generate_report()
