"""A headless Chromium for the page's tests."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

HOSTILE = "</script><script>alert(1)</script> <img src=x onerror=alert(2)><!--<script> {{ 7*7 }} &lt;b&gt; "
HOSTILE += "\U0001f9ed\U0001f9ed tail\nend"


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


class OpenedPage:
    """A page in the browser, with what it complained of and what it asked for; all but its own file is blocked."""

    def __init__(self, page: Page, report: Path) -> None:
        self.page, self.own = page, report.resolve().as_uri()
        self.complaints: list[str] = []
        """Console errors and warnings, and uncaught errors."""
        self.requests: list[str] = []
        """Addresses asked for beside the page's own file and data: addresses."""
        page.route("**/*", self._decide)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)
        page.goto(self.own)
        page.wait_for_selector("#table tbody tr, .arms tbody tr, #notice")

    def _decide(self, route: Route) -> None:
        if route.request.url.split("#")[0] == self.own:
            route.continue_()
            return
        if not route.request.url.startswith("data:"):
            self.requests.append(route.request.url)
        route.abort()

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def shown_rows(self) -> list[int]:
        """Row numbers in the table, in order."""
        rows = self.page.locator("#table tbody tr[data-row]").evaluate_all("rows => rows.map(row => row.dataset.row)")
        return [int(row) for row in rows]

    def texts(self, selector: str) -> list[str]:
        """Texts of all elements, in order."""
        return [text.strip() for text in self.page.locator(selector).all_text_contents()]

    def column(self, name: str) -> list[str]:
        """Cells of one column, in order."""
        return self.texts(f'#table td[data-name="{name}"]')

    def tab_to(self, focused: str) -> None:
        """Press Tab until this is true of the element in focus."""
        for _ in range(60):
            self.page.keyboard.press("Tab")
            if self.page.evaluate(f"document.activeElement.{focused}"):
                return
        pytest.fail(f"no element in focus has {focused}")

    def is_quiet_and_fits(self) -> None:
        """Nothing was complained of or asked for, and the page does not scroll sideways."""
        assert (self.complaints, self.requests) == ([], [])
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"

    def lets_nothing_slip_in(self) -> None:
        """Try what a page's policy must stop: a script, an image and a request that are not its own."""
        own = {"script": {"textContent": "window.slipped = true"}, "img": {"src": "https://example.invalid/a.png"}}
        self.page.evaluate(
            """own => Object.entries(own).forEach(([name, has]) =>
                document.body.append(Object.assign(document.createElement(name), has)))""",
            own,
        )
        self.page.evaluate("() => { fetch('https://example.invalid/b').catch(() => {}); }")
        self.page.wait_for_timeout(200)
        assert self.page.evaluate("window.slipped") is None
        assert self.requests == []


Opener = Callable[..., OpenedPage]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine: install Debian's chromium package to test the page")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Opener]:
    """Opens a page in a window ``width`` wide, in the browser's storage of the page ``beside`` or in one of its own."""

    def opened(report: Path, beside: OpenedPage | None = None, width: int = 1360, **context: str) -> OpenedPage:
        options = {"viewport": {"width": width, "height": 900}, **context}
        return OpenedPage((beside.page.context if beside else browser.new_context(**options)).new_page(), report)

    yield opened
    for context in browser.contexts:
        context.close()
