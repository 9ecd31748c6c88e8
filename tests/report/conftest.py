"""A headless Chromium for the page's tests."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

HOSTILE = "</script><script>alert(1)</script> <img src=x onerror=alert(2)><!--<script> {{ 7*7 }} &lt;b&gt; "
HOSTILE += "\U0001f9ed\U0001f9ed tail\nend"


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


class OpenedPage:
    """A page in the browser, with what it complained of and what it asked for; all but its own file is blocked."""

    def __init__(self, page: Page, report: Path | str) -> None:
        self.page, self.own = page, report if isinstance(report, str) else report.resolve().as_uri()
        self.complaints: list[str] = []
        """Console errors and warnings, and uncaught errors."""
        self.requests: list[str] = []
        """Addresses asked for beside the page's own file and data: addresses."""
        page.route("**/*", self._decide)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)
        page.goto(self.own)
        page.wait_for_selector("#table tbody tr, #verdict h1, #notice, main > h1")

    def _decide(self, route: Route) -> None:
        url = route.request.url.split("#")[0]
        if url == self.own or (self.own.startswith("http") and url.startswith(self.own.rpartition("/")[0])):
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

    def search(self, words: str) -> None:
        """Type into the search, and wait for the rows."""
        self._drawn(lambda: self.page.fill("#search", words))

    def fill(self, selector: str, value: str) -> None:
        self._drawn(lambda: (self.page.fill(selector, value), self.page.keyboard.press("Tab")))

    def choose(self, selector: str, value: str) -> None:
        self._drawn(lambda: self.page.select_option(selector, value))

    def click(self, selector: str) -> None:
        self._drawn(lambda: self.page.click(selector))

    def _drawn(self, act: Callable[[], object]) -> None:
        """Act, and wait until the list of rows was drawn again."""
        self.page.evaluate("document.querySelector('#table tbody').replaceChildren()")
        act()
        self.page.wait_for_selector("#table tbody tr")

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


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    """Starts the viewer on a folder as its own process; gives its address."""
    started: list[subprocess.Popen[str]] = []

    @cache
    def address(folder: Path) -> str:
        command = [sys.executable, "-m", "ripcurrent", "view", str(folder), "--port", "0", "--json"]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        return str(json.loads(started[-1].stdout.readline())["address"])

    yield address
    for process in started:
        process.terminate()
        process.wait()


@pytest.fixture
def open_page(browser) -> Iterator[Opener]:
    """Opens a page in a window ``width`` wide, in the browser's storage of the page ``beside`` or in one of its own."""

    def opened(report: Path | str, beside: OpenedPage | None = None, width: int = 1360, **context: str) -> OpenedPage:
        options = {"viewport": {"width": width, "height": 900}, **context}
        return OpenedPage((beside.page.context if beside else browser.new_context(**options)).new_page(), report)

    yield opened
    for context in browser.contexts:
        context.close()
