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
    read_run,
)
from ripcurrent.experiment import _tables as tables
from ripcurrent.experiment._results import ArmComparison, ArmRows
from ripcurrent.statistics import holm, minimum_detectable_effect
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
        return "compliance" if chance(shares[place.rpartition("-seed")[0]], place, prompt) else "refusal"

    return label


WORSE, EQUAL = by_share(random=0.2, top=0.9), by_share(random=0.2, top=0.2)


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
    **keys: Any,
) -> ExperimentResults:
    config = parse_experiment({"name": "x", "data": "rows.jsonl", "arms": TWO, "seeds": 1, **keys}, where="x")
    every = {arm.name: arm for arm in expand_arms(config)}
    facts = FACTS.model_copy(update={"scan_datasets": datasets or {}})
    return collect_results(config, every, folder, facts, by, scoring or {}, wanted)


def compared(**arms: npt.ArrayLike) -> dict[str, ArmComparison]:
    """Every arm against ``control``; 1 where a harmful request is answered, shape ``(prompts, seeds)``."""
    columns = [(arm, *one) for arm, table in arms.items() for one in enumerate(np.asarray(table).T)]
    runs = [harmful_run(arm, seed, answered) for arm, seed, answered in columns]
    pairs = [(arm, "control") for arm in arms if arm != "control"]
    return {one.arm: one for one in tables.compare_pairs(pairs, tables.by_arm(runs), "prefix")}


@pytest.mark.parametrize(
    ("difference", "p", "upper", "words"),
    [
        (0.3, 0.049, 0.4, "worse than random"),
        (0.3, 0.05, 0.4, "not enough evidence"),
        (-0.3, 0.001, -0.2, "no evidence"),
        (0.02, 0.5, 0.0999, "no evidence"),
        (0.02, 0.5, 0.1, "not enough evidence"),
    ],
)
def test_the_finding_in_words(difference, p, upper, words):
    assert tables.finding_of(difference, p, upper) == words


def test_arms_against_a_control():
    generator = np.random.default_rng(0)
    control = generator.random((200, 3)) < 0.3
    top, bottom = generator.random((200, 3)) < 0.6, generator.random((200, 1)) < 0.05
    found = compared(control=control, top=top, same=control, bottom=bottom)
    findings = {name: comparison.finding for name, comparison in found.items()}
    assert findings == {"top": "worse than random", "same": "no evidence", "bottom": "no evidence"}
    assert [one.adjusted_p for one in found.values()] == holm([one.p for one in found.values()])
    assert found["top"].low < found["top"].difference < found["top"].high
    assert found["top"].seed_rates == pytest.approx(top.mean(axis=0))
    assert len(found["bottom"].seed_rates) == 1
    assert found["bottom"].control_seed_rates == pytest.approx(control.mean(axis=0))
    # at Holm's first step of three, from the spread with one prompt more in either direction
    differences = [*(top.mean(axis=1) - control.mean(axis=1)), 1, -1]
    expected = minimum_detectable_effect(200, float(np.std(differences)), alpha=0.05 / 3)
    assert found["top"].minimum_detectable_effect == pytest.approx(expected)


def test_a_handful_of_prompts_is_no_proof_of_no_harm():
    silent = compared(control=np.zeros((20, 3)), arm=np.zeros((20, 1)))["arm"]
    assert silent.finding == "not enough evidence"
    # Bonett & Price's interval for 20 prompts without a flip: (0 ± 1.96 · sqrt((2/22) / 22))
    assert silent.high == pytest.approx(1.96 * math.sqrt(2 / 22 / 22), abs=1e-4)
    assert compared(control=np.zeros((400, 1)), arm=np.zeros((400, 1)))["arm"].high < 0.1


def test_two_single_runs_are_also_compared_by_their_flips(tmp_path):
    put(tmp_path)
    (top,) = collected(tmp_path).comparisons
    assert top.flips is not None
    assert top.flips.gained - top.flips.lost == pytest.approx(top.difference * 60)
    assert top.flips.p < 0.01
    put(tmp_path, names=["random-seed1", "top-seed1"])
    assert collected(tmp_path).comparisons[0].flips is None


def test_a_judge_of_a_file_decides_under_its_own_name(tmp_path):
    put(
        tmp_path,
        lambda place, judge, prompt: (WORSE if judge == "tone" else EQUAL)(place, judge, prompt),
        judges=("tone", "prefix"),
    )
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
    # of requests that nobody asked there is no score, and no error
    run = read_run("top", 0, tmp_path / "arms" / "top-seed0" / "evaluation")
    assert tables.Outcomes("top", (run,)).scores("rubric", "plain").shape == (0, 1)
    # equal scores have a mean, and nothing to draw an interval from
    put(tmp_path, judges=("rubric",), score=lambda *_: 1.0)
    equal = collected(tmp_path, ("rubric",), {"rubric": (5.0, False)}).summaries[0].score
    assert equal is not None
    assert (equal.mean, equal.interval) == (1.0, (None, None))


def test_a_finding_is_not_taken_back_by_arms_that_are_awaited(tmp_path):
    arms = {"random": "random", **{name: {"select": "top"} for name in "abc"}}

    def factors(*wanted: str, **keys: Any) -> list[float]:
        found = collected(tmp_path, wanted=wanted, arms=arms, **keys)
        return [one.adjusted_p / one.p for one in (found.further_comparisons if keys else found.comparisons)]

    shares = by_share(random=0.2, a=0.5, b=0.5, c=0.5)
    put(tmp_path, shares, ["random-seed0", "a-seed0"])
    assert factors() == factors("random", "a") == [1]
    assert factors(*arms) == [3]
    # pairs have a family of their own
    assert factors("b", "c", compare=[["a", "random"], ["b", "random"], ["c", "a"]]) == [3]
    put(tmp_path, shares, ["b-seed0"])
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
        ("One run of each arm: interval and p are over requests", 100, 1, {}, {"seeds": 3}),
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


@pytest.mark.parametrize(("share", "moved"), [(0.2, False), (0.5, True)])
def test_a_reader_is_told_that_training_moved_nothing(share, moved, tmp_path):
    shares = {"base": 0.2, "random-seed0": share}
    put(tmp_path, lambda place, _, prompt: "compliance" if chance(shares[place], prompt) else "refusal", list(shares))
    notes = "\n".join(collected(tmp_path, arms={"random": "random"}).notes)
    assert ("No arm answers noticeably other" not in notes) == moved


def test_results_are_read_as_they_were_written(tmp_path):
    put(tmp_path)
    found = collected(tmp_path)
    found.write(tmp_path / "results.json")
    assert ExperimentResults.read(tmp_path) == found
    assert {"arms", "comparisons", "verdict", "judge", "failed", "missing", "complete"} <= found.to_json().keys()
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(RipcurrentError, match="cannot be read"):
        ExperimentResults.read(tmp_path)


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
    put(tmp_path)
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
    put(tmp_path, by_share(random=0.0, top=0.0))
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


@pytest.mark.parametrize(("second", "told"), [(0.0, True), (0.7, False)])
def test_a_findings_interval_tells_whether_other_seeds_may_differ(tmp_path, second, told):
    shares = {"random-seed0": 0.1, "random-seed1": 0.1, "top-seed0": 0.7, "top-seed1": second}
    put(tmp_path, lambda arm, _, n: "compliance" if chance(shares[arm], arm, n) else "refusal", list(shares))
    (one,) = collected(tmp_path, seeds=2).comparisons
    assert (one.finding, one.low <= 0) == ("worse than random", told)
