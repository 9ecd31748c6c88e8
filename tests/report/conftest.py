"""A headless Chromium for the page's tests."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--<script>{{ 7*7 }}&lt;b&gt;"


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


@dataclass
class OpenedPage:
    """A page in the browser, with what it complained of and what it asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Console errors and warnings, and uncaught errors."""
    requests: list[str] = field(default_factory=list)
    """Addresses asked for beside the page's own file and data: addresses."""

    def shown_rows(self) -> list[int]:
        """Row numbers in the table, in order."""
        rows = self.page.locator("#table tbody tr[data-row]").evaluate_all("rows => rows.map(row => row.dataset.row)")
        return [int(row) for row in rows]

    def column(self, name: str) -> list[str]:
        """Cells of one column, in order."""
        return [cell.strip() for cell in self.page.locator(f'#table td[data-name="{name}"]').all_text_contents()]


def watch(page: Page, own: str, complaints: list[str], requests: list[str]) -> None:
    """Note what a page complains of and asks for; everything but its own file and data: addresses is blocked."""

    def decide(route: Route) -> None:
        if route.request.url.split("#")[0] == own:
            route.continue_()
            return
        if not route.request.url.startswith("data:"):
            requests.append(route.request.url)
        route.abort()

    page.route("**/*", decide)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))


def slip_in(page: Page) -> None:
    """Try what a page's policy must stop: a script, an image and a request that are not its own."""
    page.evaluate(
        """() => {
            const script = document.createElement("script"); script.textContent = "window.slipped = true";
            const image = document.createElement("img"); image.src = "https://example.invalid/a.png";
            document.body.append(script, image);
            fetch("https://example.invalid/b").catch(() => {});
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.slipped") is None


class Opener:
    """Opens report pages with everything but their own file blocked."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def __call__(self, report: Path, beside: OpenedPage | None = None, **context: object) -> OpenedPage:
        """Open a page, in the browser's storage of another or in one of its own."""
        options = {"viewport": {"width": 1360, "height": 900}, **context}
        page = (beside.page.context if beside else self._browser.new_context(**options)).new_page()
        opened = OpenedPage(page)
        own = report.resolve().as_uri()

        watch(page, own, opened.complaints, opened.requests)
        page.goto(own)
        page.wait_for_selector("#table tbody tr, .arms tbody tr, #notice")
        return opened


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
def open_page(browser: Browser) -> Iterator[Opener]:
    yield Opener(browser)
    for context in browser.contexts:
        context.close()
