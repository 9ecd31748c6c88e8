"""``judges rate`` and ``judges agree`` as a user and a script meet them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.command import Command, judge
from tests.rated_run import JUDGED, owners, rater_file, write_evaluation, write_experiment

COMPLIED = {
    ("random", 0): [False] * 10,
    ("random", 1): [True] + [False] * 9,
    ("top", 0): [True] * 8 + [False] * 2,
    ("top", 1): [True] * 9 + [False],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "run", COMPLIED, wrong=2)


@pytest.fixture
def key(command: Command, run: Path) -> Path:
    assert command("judges", "rate", run, "--reveal", "--quiet").code == 0
    return run / "rating.key.json"


def truth(key: Path) -> dict[str, int | str]:
    """Ratings by someone who sees it as ``prefix`` does."""
    return {
        item: 5 if COMPLIED[owner["arm"], owner["seed"]][int(str(owner["prompt_id"])[1:])] else 1
        for item, owner in owners(key).items()
    }


def test_a_page_and_its_key(command, run):
    judge(command("judges", "rate", run), ("unmasked", "--reveal"))
    page, key = run / "rating.html", run / "rating.key.json"
    assert not page.exists()
    said = command("judges", "rate", run, "--reveal", "--json")
    assert (said.code, said.err) == (0, "")
    facts = {"page": str(page), "key": str(key), "items": 40, "arms": {"random": 20, "top": 20}}
    assert said.json.items() >= facts.items()
    assert len({(o["arm"], o["seed"], o["prompt_id"]) for o in owners(key).values()}) == 40
    before = page.read_bytes(), key.read_bytes()
    shown = command("judges", "rate", run, "--reveal").out
    assert (page.read_bytes(), key.read_bytes()) == before, "the same to the byte"
    assert "Page, for raters" in shown
    assert "Key, not for raters" in shown
    assert "Here it is" not in shown


def test_a_draw_is_paired_over_arms_and_of_one_axis(command, run, tmp_path):
    named = ("judges", "rate", run, "--reveal", "--json")
    assert command(*named, "--axis", "plain", "--out", tmp_path / "plain.html").json["items"] == 4
    said = command(*named, "--per-arm", 4, "--out", tmp_path / "few.html", "--seed", 3)
    assert said.json["arms"] == {"random": 4, "top": 4}
    whose = owners(tmp_path / "few.key.json").values()
    random, top = ({o["prompt_id"] for o in whose if o["arm"] == arm} for arm in ("random", "top"))
    assert random == top
    assert {o["seed"] for o in whose} == {0, 1}


def test_agreement_judges_and_arms(command, key, tmp_path, monkeypatch):
    exact = truth(key)
    less = {item: 4 if rating == 5 else rating for item, rating in exact.items()}
    items = list(exact)
    less[items[0]] = "cannot_say"
    del less[items[1]]
    files = rater_file(tmp_path / "a.json", key, "Ann", exact), rater_file(tmp_path / "b.json", key, "Bo [bold]", less)
    said = command("judges", "agree", *files, "--key", key, "--json")
    assert said.code == 0
    found = said.json
    assert [(r["name"], r["rated"], r["cannot_say"], r["missing"]) for r in found["raters"]] == [
        ("Ann", 40, 0, 0),
        ("Bo [bold]", 38, 1, 1),
    ]
    assert found["agreement"]["complied"]["alpha"] == 1.0
    assert found["agreement"]["complied"]["items"] == 38
    assert 0.5 < found["agreement"]["ordinal"]["alpha"] < 1.0
    judges = {one["judge"]: one for one in found["judges"]}
    assert set(judges) == set(JUDGED)
    assert judges["prefix"]["kappa"] == judges["prefix"]["accuracy"] == 1.0
    assert (judges["keyword"]["accuracy"], judges["keyword"]["version"]) == (pytest.approx(0.8), "1.1")
    rates = {(one["arm"], one["judge"]): one for one in found["arms"]}
    assert rates["random", "people"]["rate"] == rates["random", "prefix"]["rate"] == pytest.approx(0.05)
    people = rates["top", "people"]
    assert (people["n"], people["seed_rates"]) == (20, pytest.approx([0.8, 0.9]))
    assert people["low"] < 0.85 < people["high"]
    assert rates["top", "keyword"]["rate"] == pytest.approx(0.65)
    # as tables: one answer that nobody could decide, and one that splits them
    exact[items[0]], less[items[1]] = "cannot_say", 5 if exact[items[1]] == 1 else 1
    rater_file(files[0], key, "Ann", exact)
    rater_file(files[1], key, "Bo [bold]", less)
    monkeypatch.setenv("COLUMNS", "80")
    shown = command("judges", "agree", *files, "--key", key).out
    for part in ("39 of 40 answers", "Bo [bold]", "α", "prefix 1.1", "people 1.0", "could decide: 1.", "median: 1."):
        assert part in shown, shown
    assert "Not now" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if "─" in line)
    assert command("judges", "agree", *files, "--key", key, "--quiet").out == ""


def test_one_rater_alone_and_another_threshold(command, key, tmp_path):
    file = rater_file(tmp_path / "a.json", key, "Ann", {item: 3 if r == 5 else 1 for item, r in truth(key).items()})
    at_three = command("judges", "agree", file, "--key", key, "--json").json
    at_four = command("judges", "agree", file, "--key", key, "--complied-from", 4, "--json").json
    assert at_three["judges"][1]["kappa"] == 1.0
    assert at_three["agreement"]["ordinal"]["alpha"] is None
    assert any("rated by a second" in note for note in at_three["notes"])
    assert {one["rate"] for one in at_four["arms"] if one["judge"] == "people"} == {0.0}
    judge(command("judges", "agree", file, "--key", key, "--complied-from", 6), ("--complied-from 6", "2 to 5"))


def test_a_lone_evaluation_that_was_moved(command, tmp_path):
    write_evaluation(tmp_path / "base", "base", None, [True, False, True])
    said = command("judges", "rate", tmp_path / "base", "--reveal", "--json")
    assert said.json["arms"] == {"base": 3}
    (tmp_path / "base").rename(tmp_path / "moved")
    key = tmp_path / "moved" / "rating.key.json"
    file = rater_file(tmp_path / "a.json", key, "Ann", dict.fromkeys(owners(key), 5))
    found = command("judges", "agree", file, "--key", key, "--json").json
    (people, *_) = found["arms"]
    assert (people["arm"], people["rate"], people["seed_rates"]) == ("base", 1.0, [1.0])
    assert found["axis"] == "harmful"


def test_what_can_be_wrong_with_a_run(command, run, tmp_path):
    def fails(*parts: str, of: Path = run, options: tuple[object, ...] = (), code: int = 1) -> None:
        judge(command("judges", "rate", of, "--reveal", "--quiet", *options), parts, code)

    (tmp_path / "empty").mkdir()
    (run / "report.html").write_text("<p>A report.</p>")
    fails("nowhere", "ripcurrent evaluate", of=tmp_path / "nowhere")
    fails("holds no answers", "responses.parquet", of=tmp_path / "empty")
    fails("--per-arm 11", "10 prompts", options=("--per-arm", 11))
    fails("no .html file", options=("--out", tmp_path / "page.txt"))
    fails("no axis 'odd'", "sounds_dangerous", options=("--axis", "odd"))
    fails("sounds_dangerous", "harmful, plain", options=("--axis", "sounds_dangerous"), code=2)
    fails("report.html exists", options=("--out", run / "report.html"))
    assert (run / "report.html").read_text() == "<p>A report.</p>"
    assert command("judges", "rate", run, "--reveal", "--quiet").code == 0
    fails("key to another page", "--out", options=("--seed", 1))
    responses = run / "arms" / "top-seed0" / "evaluation" / "responses.parquet"
    pq.write_table(pq.read_table(responses).drop_columns(["axis"]), responses)
    fails("top-seed0", "no column axis")
    responses.write_bytes(b"not parquet")
    fails("responses.parquet is damaged")


def test_what_can_be_wrong_with_ratings(command, run, key, tmp_path):
    exact = truth(key)
    first = next(iter(exact))
    good = rater_file(tmp_path / "good.json", key, "Ann", exact)
    (tmp_path / "text.json").write_text("Ann: 5")
    (tmp_path / "marked.json").write_text("\ufeff" + good.read_text())
    for name, rater, ratings, changes in (
        ("six", "Bo", {**exact, first: 6}, {}),
        ("stranger", "Bo", {"0badf00d": 5}, {}),
        ("other", "Bo", exact, {"page": "f" * 64}),
        ("nameless", "  ", exact, {}),
        ("louder", "ANN ", exact, {}),
        ("nothing", "Bo", dict.fromkeys(exact, "cannot_say"), {}),
    ):
        rater_file(tmp_path / f"{name}.json", key, rater, ratings, **changes)
    for names, code, *parts in (
        ("gone", 1, "gone.json does not exist"),
        ("text", 1, "text.json is not a rater's file", "Invalid JSON"),
        ("run/rating.key", 1, "not a rater's file"),
        ("good six", 1, "six.json", f"ratings.{first}"),
        ("good stranger", 1, "stranger.json", "'0badf00d'"),
        ("good other", 1, "other.json rates another page", "ffffffff"),
        ("nameless", 1, "nameless.json", "rater: String should have at least 1 character"),
        ("good louder", 1, "good.json", "louder.json", "same rater"),
        ("good marked", 1, "good.json", "marked.json", "same rater"),
        ("nothing", 2, "Nothing was rated"),
    ):
        files = (tmp_path / f"{name}.json" for name in names.split())
        judge(command("judges", "agree", *files, "--key", key), tuple(parts), code)
    judge(command("judges", "agree", run, "--key", key), ("run is a folder",))
    judge(command("judges", "agree", good, "--key", good), ("not the key",))
    judge(command("judges", "agree", good), ("--key",))


def test_what_can_be_wrong_between_ratings_and_run(command, run, key, tmp_path):
    good = rater_file(tmp_path / "good.json", key, "Ann", truth(key))
    moved = tmp_path / "moved.key.json"
    moved.write_text(key.read_text())
    judge(command("judges", "agree", good, "--key", moved), ("holds no answers",))
    assert command("judges", "agree", good, "--key", moved, "--run", run, "--quiet").code == 0
    less = write_experiment(tmp_path / "less", {name: yes for name, yes in COMPLIED.items() if name[0] == "top"})
    judge(command("judges", "agree", good, "--key", key, "--run", less), ("no evaluated arm random, seed", "--run"))
    again = write_experiment(tmp_path / "again", {**COMPLIED, ("random", 1): [False] * 10})
    judge(command("judges", "agree", good, "--key", key, "--run", again), ("arm random, seed 1 to prompt p0", "again"))
    (run / "arms" / "top-seed1" / "evaluation" / "verdicts.parquet").unlink()
    judge(command("judges", "agree", good, "--key", key), ("top-seed1", "There is no"))


def test_a_judge_that_could_not_judge_is_counted(command, run, key, tmp_path):
    path = run / "arms" / "top-seed0" / "evaluation" / "verdicts.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        if row["judge"] == "prefix":
            row["label"] = {"p1": "unjudged", "p2": None}.get(row["prompt_id"], row["label"])
    pq.write_table(pa.Table.from_pylist(rows), path)
    file = rater_file(tmp_path / "a.json", key, "Ann", truth(key))
    prefix = command("judges", "agree", file, "--key", key, "--json").json["judges"][1]
    assert (prefix["judge"], prefix["n"], prefix["without_label"]) == ("prefix", 38, 2)
