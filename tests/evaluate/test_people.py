"""People as judges: what raters are shown, agreement against plain loops, labels, rates, and the two commands."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._agree import COMPLIED_FROM, between_raters, people_labels
from ripcurrent.evaluate._ratings import RUBRIC_VERSION, SCALE, ArmAnswer, KeyItem, blind_order, draw_answers
from tests.cli.command import judge
from tests.rated_run import JUDGED, owners, rater_file, write_evaluation, write_experiment

NAN = float("nan")


def answers(arms: int, seeds: int, prompts: int) -> list[ArmAnswer]:
    every = product(range(arms), range(seeds), range(prompts))
    whose = (KeyItem(arm=f"arm{a}", seed=seed, prompt_id=f"p{p}", answer_sha256="") for a, seed, p in every)
    return [ArmAnswer(owner, "Name a river.", str(place), False) for place, owner in enumerate(whose)]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 15), st.integers(0, 5))
def test_order_keeps_answers_of_one_prompt_apart(arms, seeds, prompts, seed):
    given_answers = answers(arms, seeds, prompts)
    ordered = blind_order(given_answers, seed=seed)
    assert Counter(ordered) == Counter(given_answers)
    for prompt in range(prompts):
        places = [place for place, answer in enumerate(ordered) if answer.owner.prompt_id == f"p{prompt}"]
        assert set(np.diff(places)) <= {prompts}
    assert blind_order(given_answers, seed=seed) == ordered


def test_order_does_not_tell_the_arm():
    """Each arm is as often early as late: over many pages the first answer is of every arm alike."""
    first = Counter(blind_order(answers(2, 1, 6), seed=seed)[0].owner.arm for seed in range(300))
    assert min(first.values()) > 110
    early = Counter(answer.owner.arm for seed in range(100) for answer in blind_order(answers(2, 2, 6), seed=seed)[:12])
    assert abs(early["arm0"] - early["arm1"]) < 120


def test_a_draw_takes_the_same_prompts_of_every_arm_and_all_seeds_in_turn():
    drawn = draw_answers(answers(3, 2, 20), per_arm=8, seed=1)
    by_arm = [[answer.owner for answer in drawn if answer.owner.arm == f"arm{arm}"] for arm in range(3)]
    assert len({frozenset(owner.prompt_id for owner in mine) for mine in by_arm}) == 1
    assert [Counter(owner.seed for owner in mine) for mine in by_arm] == [{0: 4, 1: 4}] * 3
    assert draw_answers(answers(3, 2, 20), per_arm=8, seed=1) == drawn
    assert draw_answers(answers(3, 2, 20), per_arm=8, seed=2) != drawn
    some = [a for a in answers(2, 1, 10) if a.owner.arm == "arm0" or a.owner.prompt_id in ("p1", "p2", "p3")]
    assert {a.owner.prompt_id for a in draw_answers(some, per_arm=3)} == {"p1", "p2", "p3"}
    with pytest.raises(RipcurrentError, match="more than the 3 prompts"):
        draw_answers(some, per_arm=4)


def alpha_by_loops(table: Sequence[Sequence[float]], *, ordinal: bool) -> float:
    """Krippendorff's α pair by pair, as the book writes it."""
    pairs: dict[tuple[float, float], float] = {}
    for item in zip(*table, strict=True):
        values = [value for value in item if not math.isnan(value)]
        for pair in permutations(values, 2):
            pairs[pair] = pairs.get(pair, 0.0) + 1 / (len(values) - 1)
    names = sorted({name for pair in pairs for name in pair})
    totals = {name: sum(count for pair, count in pairs.items() if pair[0] == name) for name in names}
    n = sum(totals.values())

    def distance(a: float, b: float) -> float:
        if not ordinal:
            return float(a != b)
        between = sum(totals[name] for name in names if min(a, b) <= name <= max(a, b))
        return float(between - (totals[a] + totals[b]) / 2) ** 2 if a != b else 0.0

    observed = sum(count * distance(*pair) for pair, count in pairs.items())
    expected = sum(totals[a] * totals[b] * distance(a, b) for a in names for b in names) / (n - 1)
    return 1 - observed / expected


def ratings(raters: int, items: int, *, seed: int = 0, missing: float = 0.15) -> np.ndarray:
    generator = np.random.default_rng(seed)
    truth = generator.integers(1, 6, size=items)
    noise = generator.integers(1, 6, size=(raters, items))
    table = np.where(generator.random((raters, items)) < 0.7, truth, noise).astype(float)
    table[generator.random((raters, items)) < missing] = NAN
    return table


@pytest.mark.parametrize(("raters", "complied_from"), [(2, 2), (3, 3), (5, 5), (2, 4)])
def test_alpha_is_that_of_plain_loops(raters, complied_from):
    table = ratings(raters, 30, seed=raters)
    ordinal, complied = between_raters(table, [f"p{i}" for i in range(30)], complied_from=complied_from).values()
    assert ordinal.alpha == pytest.approx(alpha_by_loops(table.tolist(), ordinal=True))
    binary = np.where(np.isnan(table), NAN, (table >= complied_from).astype(float))
    assert complied.alpha == pytest.approx(alpha_by_loops(binary.tolist(), ordinal=False))
    assert ordinal.low < ordinal.alpha < ordinal.high
    assert ordinal.items == int((np.isfinite(table).sum(axis=0) >= 2).sum())


def test_agreement_at_its_ends():
    perfect = between_raters(np.array([[1.0, 5, 3, 1, 2]] * 2), list("abcde"), complied_from=3)
    assert [found.alpha for found in perfect.values()] == [1.0, 1.0]
    of_one_prompt = between_raters(np.array([[1.0, 5, 2], [1.0, 4, 2]]), ["a"] * 3, complied_from=3)["ordinal"]
    assert (math.isfinite(of_one_prompt.alpha), math.isnan(of_one_prompt.low)) == (True, True)
    alone = between_raters(np.array([[1.0, NAN], [NAN, 2.0]]), ["a", "b"], complied_from=3)["ordinal"]
    assert math.isnan(alone.alpha)
    assert "no answer was rated by two raters" in (alone.undefined or "")
    low, never = between_raters(np.array([[1.0, 2.0], [2.0, 2.0]]), ["a", "b"], complied_from=3).values()
    assert (low.undefined, never.items) == (None, 2)
    assert "every rating is the same" in (never.undefined or "")


def test_the_median_decides_and_cannot_say_has_no_part():
    table = np.array([[1, 5, 2, 1, NAN, 3], [1, 5, 4, 4, NAN, NAN], [5, 1, NAN, NAN, NAN, NAN]])
    assert people_labels(table, 3).tolist() == pytest.approx([0, 1, 1, 0, NAN, 1], nan_ok=True)
    assert people_labels(table, 4)[5] == 0


def test_the_documented_scale_is_the_codes():
    page = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    for place, (name, text) in enumerate(SCALE):
        assert f"| {place + 1} | {name} | {text} |" in page
    assert f"Rubric {RUBRIC_VERSION}" in page
    assert f"complied from {COMPLIED_FROM} on" in page


COMPLIED = {
    ("random", 0): [False] * 10,
    ("random", 1): [True] + [False] * 9,
    ("top", 0): [True] * 8 + [False] * 2,
    ("top", 1): [True] * 9 + [False],
}


@pytest.fixture
def run(tmp_path) -> Path:
    return write_experiment(tmp_path / "run", COMPLIED, wrong=2)


@pytest.fixture
def key(command, run) -> Path:
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
    named = ("--axis", "plain", "--per-arm", 1, "--seed", 3, "--out", run / "plain.html")
    assert command("judges", "rate", run, "--reveal", "--json", *named).json["arms"] == {"random": 1, "top": 1}


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
    rated = [(one["name"], one["rated"], one["cannot_say"], one["missing"]) for one in found["raters"]]
    assert rated == [("Ann", 40, 0, 0), ("Bo [bold]", 38, 1, 1)]
    assert found["agreement"]["complied"]["alpha"] == 1.0
    assert found["agreement"]["complied"]["items"] == 38
    assert 0.5 < found["agreement"]["ordinal"]["alpha"] < 1.0
    judges = {one["judge"]: one for one in found["judges"]}
    assert set(judges) == set(JUDGED)
    assert judges["prefix"]["kappa"] == judges["prefix"]["accuracy"] == 1.0
    assert (judges["keyword"]["accuracy"], judges["keyword"]["version"]) == (pytest.approx(0.8), "1.1")
    assert judges["keyword"]["kappa"] == pytest.approx((0.8 - 0.51) / 0.49)  # 18 comply, 16 by it
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
    labelled = command("judges", "agree", *files, "--key", key, "--json").json
    assert sum(one["n"] for one in labelled["arms"] if one["judge"] == "people") == 39, "what has a label"
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
