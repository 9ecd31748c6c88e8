"""A headless Chromium for the page's tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright


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


class Opener:
    """Opens report pages with everything but their own file blocked."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def __call__(self, report: Path, **context: object) -> OpenedPage:
        page = self._browser.new_context(**{"viewport": {"width": 1360, "height": 900}, **context}).new_page()
        opened = OpenedPage(page)
        own = report.resolve().as_uri()

        def watch(route) -> None:
            if route.request.url.split("#")[0] == own:
                route.continue_()
                return
            if not route.request.url.startswith("data:"):
                opened.requests.append(route.request.url)
            route.abort()

        page.route("**/*", watch)
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: message.type in ("error", "warning") and opened.complaints.append(message.text),
        )
        page.on("dialog", lambda dialog: (opened.complaints.append(dialog.message), dialog.dismiss()))
        page.goto(own)
        page.wait_for_selector("#table tbody tr, .arms tbody tr")
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
