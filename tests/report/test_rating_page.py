"""The rating page in a browser: what a rater does with it, and that the file it saves is read again."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from ripcurrent.evaluate import RatingDraw, RatingItem, RatingKey, agree, draw_ratings
from ripcurrent.report import build_rating_page
from tests.rated_run import owners, write_experiment
from tests.report.conftest import HOSTILE, OpenedPage

pytestmark = pytest.mark.browser

ARMS = {("random", 0): [False] * 3, ("top", 0): [True] * 3}


class Rating:
    """The page in a browser, with what a rater does."""

    def __init__(self, opened: OpenedPage) -> None:
        self.opened, self.page = opened, opened.page

    def begin(self, rater: str = "Ann") -> None:
        self.page.fill("#rater", rater)
        self.page.keyboard.press("Enter")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def answer(self, accept: bool) -> None:
        self.page.once("dialog", lambda dialog: dialog.accept() if accept else dialog.dismiss())

    def text(self, name: str) -> str:
        return self.page.locator(f"#{name}").text_content() or ""

    def says(self, **texts: str) -> None:
        for name, text in texts.items():
            assert text in self.text(name), name

    def save(self, folder: Path) -> Path:
        with self.page.expect_download() as waiting:
            self.page.click("#export")
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path


class Written(NamedTuple):
    """A page on disk, its key, and its hash."""

    page: Path
    key: Path
    sha256: str


def write_page(run: Path, page: Path, seed: int = 0) -> Written:
    draw = draw_ratings(run, seed=seed)
    key = draw.save_key(page)
    return Written(build_rating_page(draw, page), key, draw.key.page)


@pytest.fixture
def written(tmp_path) -> Written:
    return write_page(write_experiment(tmp_path / "run", ARMS), tmp_path / "run" / "rating.html")


def test_rate_by_keys_reload_save_and_read_again(written, open_page, tmp_path):
    rating = Rating(open_page(written.page))
    page = rating.page
    assert page.locator("#work").is_hidden(), "the notice comes first"
    assert rating.text("prompt") == ""
    page.click("#start")
    rating.says(kept="name or code first")
    assert page.evaluate("document.activeElement.id") == "rater"
    rating.begin("Ann B.")
    rating.says(place="Answer 1 of 6")
    rating.press("4", "x", "1")
    rating.says(progress="3 of 6 rated")
    page.reload()
    assert page.locator("#notice").is_visible(), "and comes again with every visit"
    assert page.input_value("#rater") == "Ann B."
    rating.says(kept="3 of 6 ratings by Ann B.")
    page.click("#start")
    rating.says(place="Answer 4 of 6")
    rating.press("5", "2", "3")
    assert page.locator("#done").is_visible()
    saved = rating.save(tmp_path)
    assert saved.name == f"ratings-ann-b-{written.sha256[:8]}.json"
    values = [4, "cannot_say", 1, 5, 2, 3]
    assert json.loads(saved.read_text())["ratings"] == dict(zip(owners(written.key), values, strict=True))
    result = agree([saved], key=written.key)
    (rater,) = result.raters
    assert (rater.name, rater.rated, rater.cannot_say, rater.missing) == ("Ann B.", 5, 1, 0)
    assert (result.labelled, result.undecided) == (5, 1)
    rating.opened.is_quiet_and_fits()


def test_back_forward_undo_and_only_keys_that_are_meant_rate(written, open_page, tmp_path):
    rating = Rating(open_page(written.page))
    pressed = rating.page.locator('.rate[aria-pressed="true"]')
    rating.press("1", "2")
    rating.begin("rater 5")
    rating.press("Control+1", "Alt+2", "6", "Shift")
    rating.says(progress="0 of 6 rated")
    rating.press("1", "2", "ArrowLeft", "ArrowLeft")
    rating.says(place="Answer 1 of 6")
    assert pressed.get_attribute("data-value") == "1"
    rating.press("5")
    rating.says(place="Answer 3 of 6")
    rating.press("u")
    rating.says(place="Answer 1 of 6")
    assert pressed.get_attribute("data-value") == "1"
    rating.press("Control+z")
    rating.says(place="Answer 2 of 6")
    assert pressed.count() == 0
    rating.press("u", "u")
    rating.says(progress="0 of 6 rated", said="Nothing to undo")
    rating.press("ArrowRight", "ArrowRight")
    for _ in range(4):
        rating.page.keyboard.down("3")
    rating.says(progress="1 of 6 rated")
    assert list(json.loads(rating.save(tmp_path).read_text())["ratings"]) == [list(owners(written.key))[2]]


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1100)])
def test_the_mouse_does_it_too_and_it_fits_and_follows_the_theme(written, open_page, scheme, width):
    rating = Rating(open_page(written.page, color_scheme=scheme, width=width))

    def is_dark() -> bool:
        colour = rating.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return int(colour.split("(")[1].split(",")[0]) < 60

    rating.opened.is_quiet_and_fits()
    rating.begin()
    rating.page.click('.rate[data-value="4"]')
    rating.page.click('.rate[data-value="cannot"]')
    rating.says(progress="2 of 6 rated")
    rating.page.click("#undo")
    rating.page.click("#back")
    rating.says(place="Answer 1 of 6")
    assert is_dark() == (scheme == "dark")
    rating.page.get_by_role("button", name="theme").click()
    assert is_dark() == (scheme == "light")
    rating.opened.is_quiet_and_fits()
    rating.page.click("#leave")
    assert rating.page.locator("#notice").is_visible()
    assert rating.text("answer") == ""


def test_one_raters_ratings_do_not_become_anothers(written, open_page, tmp_path):
    rating = Rating(open_page(written.page))
    rating.begin("Ann")
    rating.press("1", "2")
    rating.page.reload()
    rating.answer(False)
    rating.begin("Bo")
    assert rating.page.locator("#work").is_hidden()
    assert rating.page.input_value("#rater") == "Ann"
    # a name put right
    rating.answer(True)
    rating.begin("Anne")
    saved = json.loads(rating.save(tmp_path).read_text())
    assert (saved["rater"], len(saved["ratings"])) == ("Anne", 2)
    for accept, left in ((False, "2 of 6 rated"), (True, "")):
        rating.answer(accept)
        rating.page.click("#clear")
        rating.says(progress=left)
    rating.page.reload()
    rating.begin("Bo")
    rating.says(progress="0 of 6 rated")


def test_pages_keep_their_own_and_damaged_storage_is_no_obstacle(written, open_page, tmp_path):
    first = Rating(open_page(written.page))
    first.begin()
    first.press("1", "2")
    other = write_page(tmp_path / "run", tmp_path / "other.html", seed=1)
    assert Rating(open_page(other.page, beside=first.opened)).text("kept") == ""
    rating = Rating(open_page(written.page, beside=first.opened))
    rating.says(kept="2 of 6")
    rating.page.evaluate("page => localStorage.setItem(`ripcurrent-ratings-${page}`, '{broken')", written.sha256)
    rating.page.reload()
    rating.page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); }; }")
    rating.begin()
    rating.press("1")
    rating.says(said="keeps nothing")
    assert len(json.loads(rating.save(tmp_path).read_text())["ratings"]) == 1
    assert rating.opened.complaints == []


def test_the_page_is_blind(written):
    text = written.page.read_text()
    for tells in ("random", "seed", "prefix", "keyword", "kitchen", "p0", "arm", str(written.page.parent)):
        assert f'"{tells}' not in text
        assert f">{tells}" not in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert set(data) == {"page", "rubric", "cannotSay", "items"}
    assert {frozenset(item) for item in data["items"]} == {frozenset({"id", "prompt", "answer", "truncated"})}


def test_hostile_text_is_shown_as_text(tmp_path, open_page):
    owner = {"arm": "top", "seed": 0, "prompt_id": "p0", "answer_sha256": "0"}
    facts = {"page": "0", "rubric": "1.0", "axis": "harmful", "per_arm": None, "seed": 0, "items": {"0": owner}}
    draw = RatingDraw((RatingItem("0", HOSTILE, HOSTILE, True),), RatingKey.model_validate(facts), {"top": 1}, ())
    rating = Rating(open_page(build_rating_page(draw, tmp_path / "page.html")))
    rating.begin(HOSTILE[:80])
    assert rating.text("prompt") == rating.text("answer") == HOSTILE
    assert rating.page.locator("#cut").is_visible()
    assert rating.page.locator("main img, main script").count() == 0
    rating.opened.lets_nothing_slip_in()
