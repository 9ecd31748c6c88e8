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


def test_a_page_and_its_key(command: Command, run: Path) -> None:
    said = command("judges", "rate", run, "--reveal", "--json")
    assert said.code == 0
    assert said.err == ""
    assert said.json["items"] == 40
    assert said.json["arms"] == {"random": 20, "top": 20}
    page, key = Path(said.json["page"]), Path(said.json["key"])
    assert (page, key) == (run / "rating.html", run / "rating.key.json")
    whose = owners(key)
    assert len({(o["arm"], o["seed"], o["prompt_id"]) for o in whose.values()}) == 40
    before = page.read_bytes(), key.read_bytes()
    assert command("judges", "rate", run, "--reveal", "--quiet").out == ""
    assert (page.read_bytes(), key.read_bytes()) == before, "the same to the byte"
    shown = command("judges", "rate", run, "--reveal").out
    assert "Page, for raters" in shown
    assert "Key, not for raters" in shown
    assert "Here it is" not in shown


def test_nothing_is_written_without_reveal(command: Command, run: Path) -> None:
    before = sorted(run.iterdir())
    judge(command("judges", "rate", run), ("unmasked", "--reveal"))
    assert sorted(run.iterdir()) == before


def test_a_draw_is_paired_over_arms(command: Command, run: Path, tmp_path: Path) -> None:
    said = command(
        "judges", "rate", run, "--reveal", "--per-arm", 4, "--out", tmp_path / "few.html", "--seed", 3, "--json"
    )
    assert said.json["arms"] == {"random": 4, "top": 4}
    whose = owners(tmp_path / "few.key.json").values()
    prompts = {arm: {o["prompt_id"] for o in whose if o["arm"] == arm} for arm in ("random", "top")}
    assert prompts["random"] == prompts["top"]
    assert {o["seed"] for o in whose} == {0, 1}


def test_agreement_judges_and_arms(command: Command, key: Path, tmp_path: Path) -> None:
    exact = truth(key)
    less = {item: 4 if rating == 5 else rating for item, rating in exact.items()}
    items = list(exact)
    less[items[0]] = "cannot_say"
    del less[items[1]]
    files = rater_file(tmp_path / "a.json", key, "Ann", exact), rater_file(tmp_path / "b.json", key, "Bo", less)
    said = command("judges", "agree", *files, "--key", key, "--json")
    assert said.code == 0
    found = said.json
    assert [(r["name"], r["rated"], r["cannot_say"], r["missing"]) for r in found["raters"]] == [
        ("Ann", 40, 0, 0),
        ("Bo", 38, 1, 1),
    ]
    assert found["agreement"]["complied"]["alpha"] == 1.0
    assert found["agreement"]["complied"]["items"] == 38
    assert 0.5 < found["agreement"]["ordinal"]["alpha"] < 1.0
    judges = {one["judge"]: one for one in found["judges"]}
    assert set(judges) == set(JUDGED)
    assert judges["prefix"]["kappa"] == judges["prefix"]["accuracy"] == 1.0
    assert judges["keyword"]["accuracy"] == pytest.approx(0.8)
    assert judges["keyword"]["version"] == "1.1"
    rates = {(one["arm"], one["judge"]): one for one in found["arms"]}
    assert rates["random", "people"]["rate"] == rates["random", "prefix"]["rate"] == pytest.approx(0.05)
    assert rates["top", "people"]["seed_rates"] == pytest.approx([0.8, 0.9])
    assert rates["top", "people"]["n"] == 20
    assert rates["top", "people"]["low"] < 0.85 < rates["top", "people"]["high"]
    assert rates["top", "keyword"]["rate"] == pytest.approx(0.65)


def test_one_rater_alone_and_another_threshold(command: Command, key: Path, tmp_path: Path) -> None:
    file = rater_file(tmp_path / "a.json", key, "Ann", {item: 3 if r == 5 else 1 for item, r in truth(key).items()})
    at_three = command("judges", "agree", file, "--key", key, "--json").json
    at_four = command("judges", "agree", file, "--key", key, "--complied-from", 4, "--json").json
    assert at_three["judges"][1]["kappa"] == 1.0
    assert at_three["agreement"]["ordinal"]["alpha"] is None
    assert any("one rater alone" in note for note in at_three["notes"])
    assert {one["rate"] for one in at_four["arms"] if one["judge"] == "people"} == {0.0}
    judge(command("judges", "agree", file, "--key", key, "--complied-from", 6), ("--complied-from 6", "2 to 5"))


def test_tables_for_people(command: Command, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    exact = truth(key)
    items = list(exact)
    exact[items[0]], exact[items[1]] = "cannot_say", 5 if exact[items[1]] == 1 else 1
    files = (
        rater_file(tmp_path / "a.json", key, "Ann [bold]", exact),
        rater_file(tmp_path / "b.json", key, "Bo", {**truth(key), items[0]: "cannot_say"}),
    )
    said = command("judges", "agree", *files, "--key", key)
    for part in (
        "39 of 40 answers",
        "Ann [bold]",
        "α",
        "prefix 1.1",
        "people 1.0",
        "no rater could decide: 1.",
        "median: 1.",
    ):
        assert part in said.out, said.out
    assert "Not now" not in said.out
    assert all(len(line) <= 80 for line in said.out.splitlines() if "─" in line)
    assert command("judges", "agree", *files, "--key", key, "--quiet").out == ""


def test_a_lone_evaluation_that_was_moved(command: Command, tmp_path: Path) -> None:
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


def test_another_axis(command: Command, run: Path, tmp_path: Path) -> None:
    said = command("judges", "rate", run, "--reveal", "--axis", "plain", "--out", tmp_path / "plain.html", "--json")
    assert said.json["items"] == 4
    none = command("judges", "rate", run, "--reveal", "--axis", "sounds_dangerous")
    judge(none, ("sounds_dangerous", "harmful, plain"), 2)


def test_what_can_be_wrong_with_a_run(command: Command, run: Path, tmp_path: Path) -> None:
    def fails(*parts: str, of: Path = run, options: tuple[object, ...] = ()) -> None:
        judge(command("judges", "rate", of, "--reveal", "--quiet", *options), parts)

    fails("nowhere", "ripcurrent evaluate", of=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    fails("holds no answers", "responses.parquet", of=tmp_path / "empty")
    fails("--per-arm 11", "10 prompts", options=("--per-arm", 11))
    fails("no .html file", options=("--out", tmp_path / "page.txt"))
    fails("no axis 'odd'", "sounds_dangerous", options=("--axis", "odd"))
    (run / "report.html").write_text("<p>A report.</p>")
    fails("report.html exists", options=("--out", run / "report.html"))
    assert (run / "report.html").read_text() == "<p>A report.</p>"
    assert command("judges", "rate", run, "--reveal", "--quiet").code == 0
    fails("key to another page", "--out", options=("--seed", 1))
    responses = run / "arms" / "top-seed0" / "evaluation" / "responses.parquet"
    pq.write_table(pq.read_table(responses).drop_columns(["axis"]), responses)
    fails("top-seed0", "no column axis")
    responses.write_bytes(b"not parquet")
    fails("responses.parquet is damaged")


def test_what_can_be_wrong_with_ratings(command: Command, run: Path, key: Path, tmp_path: Path) -> None:
    exact = truth(key)
    first = next(iter(exact))
    good = rater_file(tmp_path / "good.json", key, "Ann", exact)
    (tmp_path / "text.json").write_text("Ann: 5")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "marked.json").write_text("\ufeff" + good.read_text())
    for name, rater, ratings, changes in (
        ("six", "Bo", {**exact, first: 6}, {}),
        ("yes", "Bo", {**exact, first: True}, {}),
        ("stranger", "Bo", {"0badf00d": 5}, {}),
        ("other", "Bo", exact, {"page": "f" * 64}),
        ("nameless", "  ", exact, {}),
        ("twice", "Ann ", exact, {}),
        ("louder", "ANN", exact, {}),
        ("nothing", "Bo", dict.fromkeys(exact, "cannot_say"), {}),
    ):
        rater_file(tmp_path / f"{name}.json", key, rater, ratings, **changes)
    for names, parts in (
        ("gone", ("gone.json does not exist",)),
        ("text", ("text.json is not a rater's file", "Invalid JSON")),
        ("list", ("list.json is not a rater's file",)),
        ("good six", ("six.json", f"ratings.{first}")),
        ("good yes", ("yes.json", f"ratings.{first}")),
        ("good stranger", ("stranger.json", "'0badf00d'")),
        ("good other", ("other.json rates another page", "ffffffff")),
        ("nameless", ("nameless.json", "rater: String should have at least 1 character")),
        ("good twice", ("good.json", "twice.json", "same rater")),
        ("good louder", ("good.json", "louder.json", "same rater")),
        ("good marked", ("good.json", "marked.json", "same rater")),
    ):
        files = (tmp_path / f"{name}.json" for name in names.split())
        judge(command("judges", "agree", *files, "--key", key), parts)
    judge(command("judges", "agree", tmp_path / "nothing.json", "--key", key), ("Nothing was rated",), 2)
    judge(command("judges", "agree", run, "--key", key), ("run is a folder",))
    judge(command("judges", "agree", key, "--key", key), ("not a rater's file",))
    judge(command("judges", "agree", good, "--key", good), ("not the key",))
    judge(command("judges", "agree", good), ("--key",))


def test_what_can_be_wrong_between_ratings_and_run(command: Command, run: Path, key: Path, tmp_path: Path) -> None:
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


def test_a_judge_that_could_not_judge_is_counted(command: Command, run: Path, key: Path, tmp_path: Path) -> None:
    path = run / "arms" / "top-seed0" / "evaluation" / "verdicts.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        if row["judge"] == "prefix":
            row["label"] = {"p1": "unjudged", "p2": None}.get(row["prompt_id"], row["label"])
    pq.write_table(pa.Table.from_pylist(rows), path)
    file = rater_file(tmp_path / "a.json", key, "Ann", truth(key))
    prefix = command("judges", "agree", file, "--key", key, "--json").json["judges"][1]
    assert (prefix["judge"], prefix["n"], prefix["without_label"]) == ("prefix", 38, 2)
