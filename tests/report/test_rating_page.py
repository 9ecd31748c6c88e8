"""The rating page in a browser: what a rater does with it, and that the file it saves is read again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from ripcurrent.evaluate import RatingDraw, RatingItem, RatingKey, agree, draw_ratings
from ripcurrent.report import build_rating_page
from tests.rated_run import owners, write_experiment
from tests.report.conftest import slip_in, watch

pytestmark = pytest.mark.browser

ARMS = {("random", 0): [False] * 3, ("top", 0): [True] * 3}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--<script>{{ 7*7 }}&lt;b&gt;"


@dataclass
class Rating:
    """The page in a browser, with what it complained of and asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def begin(self, rater: str = "Ann") -> None:
        self.page.fill("#rater", rater)
        self.page.keyboard.press("Enter")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def place(self) -> str:
        return self.page.locator("#place").text_content() or ""

    def progress(self) -> str:
        return self.page.locator("#progress").text_content() or ""

    def save(self, folder: Path) -> Path:
        with self.page.expect_download() as waiting:
            self.page.click("#export")
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path


class Opener:
    """Opens rating pages with everything but their own file blocked."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def __call__(self, path: Path, context: BrowserContext | None = None, **options: object) -> Rating:
        page = (context or self._browser.new_context(**options)).new_page()
        opened = Rating(page)
        own = path.resolve().as_uri()

        watch(page, own, opened.complaints, opened.requests)
        page.goto(own)
        return opened


@pytest.fixture
def open_rating(browser: Browser) -> Iterator[Opener]:
    yield Opener(browser)
    for context in browser.contexts:
        context.close()


@dataclass(frozen=True)
class Written:
    """A page on disk, its key, and its hash."""

    page: Path
    key: Path
    page_sha256: str


def write_page(run: Path, page: Path, seed: int = 0) -> Written:
    draw = draw_ratings(run, seed=seed)
    key = draw.save_key(page)
    build_rating_page(draw, page)
    return Written(page, key, draw.key.page)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return write_page(write_experiment(tmp_path / "run", ARMS), tmp_path / "run" / "rating.html")


def test_rate_by_keys_reload_save_and_read_again(written: Written, open_rating: Opener, tmp_path: Path) -> None:
    opened = open_rating(written.page)
    page = opened.page
    assert page.locator("#work").is_hidden(), "the notice comes first"
    assert page.locator("#prompt").text_content() == ""
    opened.begin("Ann B.")
    assert opened.place() == "Answer 1 of 6"
    opened.press("4", "x", "1")
    assert opened.progress() == "3 of 6 rated"
    page.reload()
    assert page.locator("#notice").is_visible(), "and comes again with every visit"
    assert page.input_value("#rater") == "Ann B."
    assert "3 of 6 ratings by Ann B." in page.locator("#kept").text_content()
    page.click("#start")
    assert opened.place() == "Answer 4 of 6"
    opened.press("5", "2", "3")
    assert page.locator("#done").is_visible()
    saved = opened.save(tmp_path)
    assert saved.name == f"ratings-ann-b-{written.page_sha256[:8]}.json"
    assert json.loads(saved.read_text())["ratings"] == dict(
        zip(owners(written.key), [4, "cannot_say", 1, 5, 2, 3], strict=True)
    )
    result = agree([saved], key=written.key)
    (rater,) = result.raters
    assert (rater.name, rater.rated, rater.cannot_say, rater.missing) == ("Ann B.", 5, 1, 0)
    assert (result.labelled, result.undecided) == (5, 1)
    assert opened.complaints == []
    assert opened.requests == []


def test_back_forward_undo_and_rating_anew(written: Written, open_rating: Opener, tmp_path: Path) -> None:
    opened = open_rating(written.page)
    opened.begin()
    opened.press("1", "2", "ArrowLeft", "ArrowLeft")
    assert opened.place() == "Answer 1 of 6"
    assert opened.page.locator('.rate[aria-pressed="true"]').get_attribute("data-value") == "1"
    opened.press("5")
    assert opened.place() == "Answer 3 of 6", "on to the next without a rating"
    opened.press("u")
    assert opened.place() == "Answer 1 of 6"
    assert opened.page.locator('.rate[aria-pressed="true"]').get_attribute("data-value") == "1"
    opened.press("Control+z")
    assert opened.place() == "Answer 2 of 6"
    assert opened.page.locator('.rate[aria-pressed="true"]').count() == 0
    opened.press("u", "u")
    assert opened.progress() == "0 of 6 rated"
    assert "Nothing to undo" in opened.page.locator("#said").text_content()
    opened.press("ArrowRight", "ArrowRight", "3", "ArrowLeft")
    assert opened.progress() == "1 of 6 rated"
    assert list(json.loads(opened.save(tmp_path).read_text())["ratings"]) == [list(owners(written.key))[2]]


def test_keys_typed_elsewhere_or_held_do_not_rate(written: Written, open_rating: Opener) -> None:
    opened = open_rating(written.page)
    opened.press("1", "2")
    opened.begin("rater 5")
    assert opened.progress() == "0 of 6 rated"
    opened.press("Control+1", "Alt+2", "6", "Shift")
    assert opened.progress() == "0 of 6 rated"
    for _ in range(4):
        opened.page.keyboard.down("3")
    assert opened.progress() == "1 of 6 rated", "a held key rates one answer"


def test_the_mouse_does_it_too(written: Written, open_rating: Opener) -> None:
    opened = open_rating(written.page)
    opened.begin()
    opened.page.click('.rate[data-value="4"]')
    opened.page.click('.rate[data-value="cannot"]')
    assert opened.progress() == "2 of 6 rated"
    opened.page.click("#undo")
    opened.page.click("#back")
    assert opened.place() == "Answer 1 of 6"
    opened.page.click("#leave")
    assert opened.page.locator("#notice").is_visible()
    assert opened.page.locator("#answer").text_content() == ""


def test_no_name_no_answers(written: Written, open_rating: Opener) -> None:
    opened = open_rating(written.page)
    opened.page.click("#start")
    assert "name or code first" in opened.page.locator("#kept").text_content()
    assert opened.page.locator("#work").is_hidden()
    assert opened.page.evaluate("document.activeElement.id") == "rater"


def test_another_rater_begins_with_nothing(written: Written, open_rating: Opener) -> None:
    opened = open_rating(written.page)
    opened.begin()
    opened.press("1", "2")
    opened.page.once("dialog", lambda dialog: dialog.dismiss())
    opened.page.click("#clear")
    assert opened.progress() == "2 of 6 rated"
    opened.page.once("dialog", lambda dialog: dialog.accept())
    opened.page.click("#clear")
    opened.page.reload()
    assert opened.page.input_value("#rater") == ""
    opened.begin("Bo")
    assert opened.progress() == "0 of 6 rated"


def test_a_name_typed_over_anothers_takes_no_ratings_over(
    written: Written, open_rating: Opener, tmp_path: Path
) -> None:
    opened = open_rating(written.page)
    opened.begin("Ann")
    opened.press("1", "2")
    opened.page.reload()
    opened.page.once("dialog", lambda dialog: dialog.dismiss())
    opened.begin("Bo")
    assert opened.page.locator("#work").is_hidden()
    assert opened.page.input_value("#rater") == "Ann"
    assert "2 of 6 ratings by Ann" in opened.page.locator("#kept").text_content()
    # a name put right
    opened.page.once("dialog", lambda dialog: dialog.accept())
    opened.begin("Anne")
    saved = json.loads(opened.save(tmp_path).read_text())
    assert (saved["rater"], len(saved["ratings"])) == ("Anne", 2)


def test_pages_do_not_mix_what_they_keep(written: Written, open_rating: Opener, tmp_path: Path) -> None:
    first = open_rating(written.page)
    first.begin()
    first.press("1", "2")
    other = write_page(tmp_path / "run", tmp_path / "other.html", seed=1)
    second = open_rating(other.page, first.page.context)
    assert second.page.locator("#kept").text_content() == ""
    same = open_rating(written.page, first.page.context)
    assert "2 of 6" in same.page.locator("#kept").text_content()


def test_damaged_or_missing_storage_is_no_obstacle(written: Written, open_rating: Opener, tmp_path: Path) -> None:
    opened = open_rating(written.page)
    opened.page.evaluate("page => localStorage.setItem(`ripcurrent-ratings-${page}`, '{broken')", written.page_sha256)
    opened.page.reload()
    opened.page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); }; }")
    opened.begin()
    opened.press("1")
    assert "keeps nothing" in opened.page.locator("#said").text_content()
    assert len(json.loads(opened.save(tmp_path).read_text())["ratings"]) == 1
    assert opened.complaints == []


def test_the_page_is_blind(written: Written) -> None:
    text = written.page.read_text()
    for tells in ("random", "seed", "prefix", "keyword", "kitchen", "p0", "arm", str(written.page.parent)):
        assert f'"{tells}' not in text
        assert f">{tells}" not in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert set(data) == {"page", "rubric", "cannotSay", "items"}
    assert {frozenset(item) for item in data["items"]} == {frozenset({"id", "prompt", "answer", "truncated"})}


def test_hostile_text_is_shown_as_text(tmp_path: Path, open_rating: Opener) -> None:
    path = tmp_path / "page.html"
    owner = {"arm": "top", "seed": 0, "prompt_id": "p0", "answer_sha256": "0"}
    key = RatingKey.model_validate(
        {"page": "0", "rubric": "1.0", "axis": "harmful", "per_arm": None, "seed": 0, "items": {"00000000": owner}}
    )
    build_rating_page(RatingDraw((RatingItem("00000000", HOSTILE, HOSTILE, True),), key, {"top": 1}, ()), path)
    opened = open_rating(path)
    opened.begin(HOSTILE[:80])
    assert opened.page.locator("#prompt").text_content() == HOSTILE
    assert opened.page.locator("#answer").text_content() == HOSTILE
    assert opened.page.locator("#cut").is_visible()
    assert opened.page.locator("main img, main script").count() == 0
    slip_in(opened.page)
    assert opened.requests == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_fits_and_follows_the_theme(written: Written, open_rating: Opener, scheme: str, width: int) -> None:
    opened = open_rating(written.page, color_scheme=scheme, viewport={"width": width, "height": 700})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.begin()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    red = opened.page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0]
    assert (int(red) < 60) == (scheme == "dark")
    opened.page.get_by_role("button", name="Light theme" if scheme == "dark" else "Dark theme").click()
    turned = opened.page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0]
    assert (int(turned) < 60) == (scheme == "light")
    assert opened.complaints == []
