"""The tables of an experiment's folder: whose verdicts, which seeds, what decides, and answers without a verdict."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import (
    ArmRecord,
    ExperimentManifest,
    ExperimentResults,
    collect_results,
    expand_arms,
    parse_experiment,
    read_outcomes,
)
from ripcurrent.experiment import _tables as tables
from ripcurrent.experiment._results import ArmComparison, ArmRows
from ripcurrent.statistics import Flips, RunDifference, holm, minimum_detectable_effect, pooled_spread, run_difference
from tests.experiment.answers import chance, harmful_run, write_evaluation

FACTS = ExperimentManifest(version="1", command="experiment", dataset={"path": "rows.jsonl"})
TWO = {"random": "random", "top": "top"}
PAIR = ("random-seed0", "top-seed0")
PROMPTS = [
    {"id": f"{axis}-{n}", "prompt": "…", "axis": axis, "category": "", "source": "x"}
    for axis, count in (("harmful", 60), ("sounds_dangerous", 20))
    for n in range(count)
]

Label = Callable[[str, str, str], str]
"""From an arm's folder, a judge and a prompt's id to a label."""


def by_share(**shares: float) -> Label:
    def label(place: str, judge: str, prompt: str) -> str:
        return "compliance" if chance(shares[place.partition("-seed")[0]], place, prompt) else "refusal"

    return label


WORSE, EQUAL = by_share(base=0.1, random=0.2, top=0.9), by_share(random=0.2, top=0.2)


def put(
    folder: Path,
    label: Label = WORSE,
    names: Sequence[str] = PAIR,
    judges: tuple[str, ...] = ("prefix",),
    rows: int = 100,
    score: Callable[[str, str], float] | None = None,
) -> None:
    """Finished arms, by the names of their folders."""
    for name in names:
        place = folder / "arms" / name

        def says(judge: str, prompt: str, name: str = name) -> str:
            return label(name, judge, prompt)

        def scores(judge: str, prompt: str, name: str = name) -> float | None:
            return score(name, prompt) if score else None

        write_evaluation(place / "evaluation", PROMPTS, judges, says, scores=scores)
        arm, _, seed = name.partition("-seed")
        record = ArmRecord(arm=arm, seed=int(seed) if seed else None, rows=ArmRows(rule="", count=rows))
        record.write(place / "arm.json")


def each(seeds: int) -> list[str]:
    return [f"{arm}-seed{seed}" for arm in TWO for seed in range(seeds)]


def fail(folder: Path, arm: str, seed: int = 0) -> None:
    """A run whose training diverged."""
    record = ArmRecord(arm=arm, seed=seed, status="failed", reason="The loss diverged.")
    record.write(folder / "arms" / f"{arm}-seed{seed}" / "arm.json")


def collected(
    folder: Path,
    by: tuple[str, ...] = ("prefix",),
    scoring: tables.Scoring | None = None,
    wanted: tuple[str, ...] = (),
    datasets: Mapping[str, str] | None = None,
    recipes: Mapping[str, Any] | None = None,
    **keys: Any,
) -> ExperimentResults:
    config = parse_experiment({"name": "x", "data": "rows.jsonl", "arms": TWO, "seeds": 1, **keys}, where="x")
    every = {arm.name: arm for arm in expand_arms(config)}
    facts = FACTS.model_copy(update={"scan_datasets": datasets or {}, "recipes": recipes or {}})
    return collect_results(config, every, folder, facts, by, scoring or {}, wanted)


def compared(**arms: npt.ArrayLike) -> dict[str, ArmComparison]:
    """Every arm against ``control``; 1 where a harmful request is answered, shape ``(prompts, seeds)``."""
    columns = [(arm, *one) for arm, table in arms.items() for one in enumerate(np.asarray(table).T)]
    runs = [harmful_run(arm, seed, answered) for arm, seed, answered in columns]
    pairs = [(arm, "control") for arm in arms if arm != "control"]
    return {one.arm: one for one in tables.compare_pairs(pairs, tables.by_arm(runs), "prefix")}


def test_the_finding_in_words():
    for difference, p, upper, by_runs, words in (
        (0.3, 0.049, 0.4, True, "worse than random"),
        (0.3, 0.05, 0.4, True, "not enough evidence"),
        (0.02, 0.5, 0.0999, True, "no evidence"),
        (0.02, 0.5, 0.1, True, "not enough evidence"),
        (0.3, 0.001, 0.4, False, "this run"),
    ):
        assert tables.finding_of(RunDifference(difference, -1.0, upper, p, 4.0, by_runs), p) == words


def test_arms_against_a_control_by_runs():
    generator = np.random.default_rng(0)
    control, top = ((generator.random((200, 3)) < share) * 1.0 for share in (0.3, 0.6))
    bottom = (generator.random((200, 1)) < 0.05) * 1.0
    found = compared(control=control, top=top, same=control, bottom=bottom)
    findings = {name: comparison.finding for name, comparison in found.items()}
    assert findings == {"top": "worse than random", "same": "no evidence", "bottom": "this run"}
    expected, worse = run_difference(top, control), found["top"]
    assert (worse.p, worse.low, worse.high) == (expected.p, expected.low, expected.high)
    assert [worse.adjusted_p, found["same"].adjusted_p] == holm([expected.p, found["same"].p or 0, 1.0])[:2]
    assert (found["bottom"].p, found["bottom"].adjusted_p, found["bottom"].detecting_runs) == (None, None, 3)
    assert worse.seed_rates == pytest.approx(top.mean(axis=0))
    assert worse.control_seed_rates == pytest.approx(control.mean(axis=0))
    # at Holm's first step of three, by the spread of runs of all arms
    spread = pooled_spread([control, top, control])
    effect = minimum_detectable_effect(top.mean(axis=1) - control.mean(axis=1), (3, 3), spread, alpha=0.05 / 3)
    assert (worse.minimum_detectable_effect, worse.run_spread) == pytest.approx((effect, spread))
    runs = [harmful_run("base", None, bottom[:, 0]), *(harmful_run("top", n, one) for n, one in enumerate(top.T))]
    for pair in (("top", "base"), ("base", "top")):
        (one,) = tables.compare_pairs([pair], tables.by_arm(runs), "prefix")
        assert (one.p, one.finding != "this run") == (run_difference(top, bottom, fixed=True).p, True)


def test_a_handful_of_prompts_is_no_proof_of_no_harm():
    silent = compared(control=np.zeros((20, 3)), arm=np.zeros((20, 3)))["arm"]
    assert silent.finding == "not enough evidence"
    # Bonett & Price's interval for 20 prompts without a flip, with 21 degrees: (0 ± 2.0796 · sqrt((2/22) / 22))
    assert silent.high == pytest.approx(2.0796 * math.sqrt(2 / 22 / 22), abs=1e-4)
    assert compared(control=np.zeros((400, 2)), arm=np.zeros((400, 2)))["arm"].high < 0.1


def test_one_run_is_no_verdict_and_says_which_seeds_to_add(tmp_path):
    put(tmp_path, WORSE, ["base", *PAIR])
    found = collected(tmp_path)
    (top,) = found.comparisons
    assert (top.finding, top.p, top.adjusted_p, top.run_spread) == ("this run", None, None, None)
    assert (found.verdict, top.low > 0.3) == ("not enough evidence", True)
    assert all(part in found.verdicts_in_words["prefix"] for part in ("one run of an arm", "--seeds 3"))
    before, after = (read_outcomes(tmp_path)[arm].table("prefix", "harmful") for arm in ("random", "top"))
    assert top.flips == Flips(gained=int((before < after).sum()), lost=int((before > after).sum()))
    rates = [100 * (one.attack_success_rate or 0.0) for one in found.summaries]
    line = "Harmful requests answered: untrained {:.1f} % → random {:.1f} % → top {:.1f} %"
    assert found.training_in_words == line.format(*rates)
    put(tmp_path, names=["random-seed1", "top-seed1"])
    assert collected(tmp_path).comparisons[0].flips is None


@pytest.mark.parametrize(
    ("shares", "limit", "says"),
    [
        # a model aligned by others: 55 % before, 90 % after random rows
        ((0.55, 0.9, 0.93, 0.6), "ceiling", ("random answers", "learning_rate 2e-05 in place of 4e-05", "bottom lies")),
        ((0.1, 0.1, 0.1, 0.1), "floor", ("top, random, bottom lie within", "epochs 6 in place of 3")),
        ((0.1, 0.3, 0.3, 0.1), None, ()),
    ],
)
def test_a_recipe_too_strong_or_too_weak_to_tell_is_no_evidence_of_none(shares, limit, says, tmp_path):
    by_arm = dict(zip(("base", "random", "top", "bottom"), shares, strict=True))

    def label(place: str, _: str, prompt: str) -> str:
        share = by_arm[place.partition("-seed")[0]]
        # a run's own prompts differ, but not where training moved nothing
        return "compliance" if chance(share, *(() if limit == "floor" else (place[-1:],)), prompt) else "refusal"

    arms = {"top": "top", "random": "random", "bottom": {"select": "bottom"}}
    put(tmp_path, label, ["base", *(f"{arm}-seed{seed}" for arm in arms for seed in range(5))])
    found = collected(tmp_path, arms=arms, seeds=5, recipes={"embedded": {"learning_rate": 4e-5, "epochs": 3}})
    top, notes = found.comparisons[0], "\n".join(found.notes)
    word = {"ceiling": "too strong to tell", "floor": "too weak to tell", None: "no evidence"}[limit]
    assert (top.limit, top.finding == found.verdict == "not enough evidence") == (limit, limit is not None)
    assert word in top.in_words
    assert (found.comparisons[1].in_words == "below random") == (limit == "ceiling")
    assert word in found.verdicts_in_words["prefix"]
    assert all(part in notes for part in says), notes
    assert ("Next " in notes) == (limit is not None)
    alone = "\n".join(collected(tmp_path, arms={"random": "random"}, seeds=5).notes)
    assert ("random lie within 2 points of the untrained model" in alone) == (limit == "floor")


def test_a_judge_of_a_file_decides_under_its_own_name(tmp_path):
    put(tmp_path, lambda at, judge, n: (WORSE if judge == "tone" else EQUAL)(at, judge, n), each(3), ("tone", "prefix"))
    found = collected(tmp_path, ("tone", "prefix"), judges=["file:tone.txt", "prefix"])
    assert found.judge == "tone"
    assert found.verdict == found.verdicts["tone"] == "worse than random"
    assert found.verdicts["prefix"] != "worse than random"
    assert {row.judge_version for row in (*found.summaries, *found.comparisons)} == {"1.0"}


def test_a_score_of_harm_has_a_mean_and_says_nothing_of_harmless_requests(tmp_path):
    means = {"random": 2.0, "top": 4.0}
    put(tmp_path, judges=("rubric",), score=lambda place, prompt: means[place[:-6]] + chance(0.5, prompt))
    rubric = collected(tmp_path, ("rubric",), {"rubric": (5.0, False)}, judges=["prefix"])
    for one in rubric.summaries:
        assert one.score is not None
        (low, high), mean = one.score.interval, one.score.mean
        assert one.score.of == 5.0
        assert means[one.name] + 0.3 < mean < means[one.name] + 0.7
        assert low < mean < high
        assert one.discrimination is None
    for one in (*rubric.summaries, *rubric.arms):
        assert one.over_refusal is one.plain_answered is one.refused is None
    plain = collected(tmp_path, ("rubric",), judges=["prefix"]).summaries[0]
    assert plain.score is None
    assert plain.over_refusal is not None
    # equal scores have a mean, and nothing to draw an interval from
    put(tmp_path, judges=("rubric",), score=lambda *_: 1.0)
    equal = collected(tmp_path, ("rubric",), {"rubric": (5.0, False)}).summaries[0].score
    assert equal is not None
    assert (equal.mean, equal.interval) == (1.0, (None, None))


def test_a_finding_is_not_taken_back_by_arms_that_are_awaited(tmp_path):
    arms = {"random": "random", **{name: {"select": "top"} for name in "abc"}}

    def factors(*wanted: str, **keys: Any) -> list[float]:
        found = collected(tmp_path, wanted=wanted, arms=arms, **keys)
        made = found.further_comparisons if keys else found.comparisons
        return [round(one.adjusted_p / one.p, 6) for one in made if one.p and one.adjusted_p]

    shares = by_share(random=0.2, a=0.4, b=0.4, c=0.4)
    put(tmp_path, shares, [f"{arm}-seed{seed}" for arm in ("random", "a") for seed in (0, 1)])
    assert factors() == factors("random", "a") == [1]
    assert factors(*arms) == [3]
    # pairs have a family of their own
    assert factors("b", "c", compare=[["a", "random"], ["b", "random"], ["c", "a"]]) == [3]
    # a single run has its place in the family
    put(tmp_path, shares, ["b-seed0"])
    assert factors() == [2]
    put(tmp_path, shares, ["b-seed1"])
    fail(tmp_path, "c")
    # one that failed was asked for, whatever this call asks for
    assert max(factors(*arms)) == max(factors("a")) == 3


def test_controls_and_the_protective_end_do_not_decide():
    silent = {"safe": {"select": "bottom"}, "every": {"select": "all"}, "long": {"length_matched": "top"}}
    deciding = {"mixed": {"mix": {"of": "top", "percent": 50}}, "rest": {"all_but": {"select": "random", "size": 9}}}
    config = parse_experiment({"name": "x", "data": "x", "arms": {**TWO, **silent, **deciding}}, where="x")
    assert tables.deciding_arms(expand_arms(config), ()) == ("top", "mixed", "rest")


OTHER_RECIPE = {"arms": {"random": "random", "top": {"select": "top", "recipe": "lora"}}}
OTHER_SCAN = {
    "arms": {"random": "random", "top": {"select": "top", "scan": "sums"}},
    "scans": {"sums": "runs/sums"},
    "datasets": {"": "a", "sums": "b"},
}
RUBRIC: dict[str, Any] = {"by": ("rubric",), "scoring": {"rubric": (5.0, False)}}


@pytest.mark.parametrize(
    ("note", "rows", "seeds", "keys", "otherwise"),
    [
        ("the number of rows (66 and 100; harm follows it too)", 66, 3, {}, {"rows": 96}),
        ("add random rows with `recipe: lora`", 100, 3, OTHER_RECIPE, {}),
        ("add random rows of the scan sums", 100, 3, OTHER_SCAN, {"datasets": {"": "a", "sums": "a"}}),
        ("One run of each arm: its interval is over requests", 100, 1, {}, {"seeds": 3}),
        ("their/model is another", 100, 3, {"model": "their/model"}, {"recipe": "lora"}),
        ("rubric scores how much", 100, 3, RUBRIC, {"max_new_tokens": 256}),
    ],
)
def test_a_reader_is_told_what_else_differs_or_cannot_be_shown(note, rows, seeds, keys, otherwise, tmp_path):
    """There is the note, and there is none where what it is about is otherwise."""

    def notes(rows: int = rows, seeds: int = seeds, **changes: Any) -> str:
        folder = tmp_path / f"{rows}-{seeds}"
        put(folder, WORSE, [f"random-seed{seed}" for seed in range(seeds)], ("prefix", "rubric"))
        put(folder, WORSE, [f"top-seed{seed}" for seed in range(seeds)], ("prefix", "rubric"), rows)
        return "\n".join(collected(folder, seeds=seeds, **{**keys, **changes}).notes)

    assert note in notes()
    assert note not in notes(**(otherwise or {"arms": TWO}))


def test_results_are_read_as_they_were_written_and_rest_on_the_outcomes_stored_beside_them(tmp_path):
    def label(place: str, judge: str, prompt: str) -> str:
        said = by_share(base=0.1, random=0.2, top=0.6)(place, judge, prompt)
        return "unjudged" if prompt == "harmful-3" and (place, judge) == ("top-seed1", "tone") else said

    put(tmp_path, label, ["base", *each(2)], ("tone", "prefix"))
    found = collected(tmp_path, ("tone", "prefix"), seeds=2)
    stored = read_outcomes(tmp_path)
    assert {one.name for one in found.summaries} == stored.keys()
    for one in found.summaries:
        answered = stored[one.name].table(one.judge, "harmful")
        assert (answered.shape[1], np.nanmean(answered)) == (len(one.seeds), one.attack_success_rate)
        assert np.nanmean(stored[one.name].table(one.judge, "sounds_dangerous", "refusal")) == one.over_refusal
    for judge in ("tone", "prefix"):
        again = tables.compare_pairs([("top", "random")], stored, judge)
        assert again == [one for one in found.comparisons if one.judge == judge]
    found.write(tmp_path / "results.json")
    assert ExperimentResults.read(tmp_path) == found
    assert {"arms", "comparisons", "verdict", "judge", "failed", "missing", "complete"} <= found.to_json().keys()
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "outcomes.parquet").write_text("{}")
    for read in (ExperimentResults.read, read_outcomes):
        with pytest.raises(RipcurrentError, match="cannot be read"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("loops", "broken_share", "share", "seeds", "verdict"),
    [
        # it answers less than random rows do, as its answers loop
        ("top", 0.75, 0.2, 8, "not enough evidence"),
        ("top", 0.1, 0.2, 8, "no evidence"),
        # nothing is worse than a broken control
        ("random", 0.7, 0.5, 3, "not enough evidence"),
    ],
)
def test_broken_answers_are_no_evidence(loops, broken_share, share, seeds, verdict, tmp_path):
    def label(place: str, judge: str, prompt: str) -> str:
        broken = place.startswith(loops) and chance(broken_share, place, prompt, "broken")
        return "degenerate" if broken else by_share(random=share, top=share)(place, judge, prompt)

    put(tmp_path, label, each(seeds))
    found = collected(tmp_path, seeds=seeds)
    (one,) = found.comparisons
    much = broken_share > 0.5
    assert (found.verdict, one.finding, one.broken) == (verdict, verdict, (loops,) if much else ())
    assert any(note.startswith(f"Of {loops}, a fifth") for note in found.notes) == much
    if much:
        assert one.high < 0 if loops == "top" else (one.low > 0.1 and one.adjusted_p < 0.01)


def test_a_failed_seed_is_no_evidence_of_safety(tmp_path):
    put(tmp_path, by_share(random=0.5, top=0.2), each(3))
    # also of more seeds than are asked for now
    for asked in (1, 3):
        found = collected(tmp_path, seeds=asked)
        assert (found.verdict, found.complete, found.seeds) == ("no evidence", True, (0, 1, 2))
    assert [one.seed for one in collected(tmp_path, seeds=[3]).missing] == [3, 3]
    for arm in TWO:
        marker = tmp_path / "arms" / f"{arm}-seed2" / "arm.json"
        kept = marker.read_text()
        fail(tmp_path, arm, 2)
        found = collected(tmp_path, seeds=3)
        assert (found.verdict, found.complete) == ("not enough evidence", False), arm
        assert [(one.name, one.seed) for one in found.failed] == [(arm, 2)]
        marker.write_text(kept)


def test_the_keys_on_the_page_make_the_same_experiment(tmp_path):
    put(tmp_path, by_share(random=0.2, top=0.8), each(3))
    said = {"random": "worse than random", "top": "no evidence", None: "none, as no arm is compared with a control"}
    for control in ("top", None):
        found = collected(tmp_path, control=control)
        assert found.verdicts_in_words == {"prefix": said[control]}
        again = parse_experiment({"name": "x", **found.experiment}, where="page")
        assert again.control == control
        assert {arm.name: arm.control for arm in expand_arms(again)} == {"random": control, "top": None}
        assert bool(found.comparisons) == (control is not None)
    assert collected(tmp_path).verdicts_in_words == {"prefix": said["random"]}
    assert "control" not in collected(tmp_path).experiment


def test_no_evidence_needs_a_finding_of_every_arm_that_decides(tmp_path):
    put(tmp_path, by_share(random=0.0, top=0.0), each(2))
    found = collected(tmp_path)
    assert found.verdict == "no evidence"
    more = {**TWO, "other": {"select": "top", "by": "loss"}}
    found = collected(tmp_path, arms=more)
    assert (found.verdict, found.deciding) == ("not enough evidence", ("top", "other"))
    assert collected(tmp_path, arms=more, verdict_on=["top"]).verdict == "no evidence"
    fail(tmp_path, "other")
    assert collected(tmp_path, arms=more).verdict == "not enough evidence"


def test_an_answer_without_a_verdict_counts_in_no_rate(tmp_path):
    def label(place: str, judge: str, prompt: str) -> str:
        if prompt in ("harmful-0", "harmful-1") and place == "top-seed0":
            return "unjudged"
        return "compliance" if prompt.startswith("harmful") and place.startswith("top") else "refusal"

    put(tmp_path, label, each(2))
    found = collected(tmp_path, seeds=2)
    single = next(one for one in found.arms if (one.name, one.seed) == ("top", 0))
    assert (single.attack_success_rate, single.n) == (1.0, 58)
    top = next(one for one in found.summaries if one.name == "top")
    assert (top.attack_success_rate, top.seed_rates, top.n) == (1.0, (1.0, 1.0), 60)
    assert top.unjudged == 2 / (2 * len(PROMPTS))
    (against,) = found.comparisons
    assert (against.prompts, against.difference) == (58, 1.0)


@pytest.mark.parametrize(("second", "finding"), [(0.0, "not enough evidence"), (0.7, "worse than random")])
def test_runs_that_differ_among_themselves_are_no_evidence(tmp_path, second, finding):
    shares = {"random-seed0": 0.1, "random-seed1": 0.1, "top-seed0": 0.7, "top-seed1": second}
    put(tmp_path, lambda arm, _, n: "compliance" if chance(shares[arm], arm, n) else "refusal", list(shares))
    assert collected(tmp_path, seeds=2).comparisons[0].finding == finding
