"""The tables of an experiment's folder: whose verdicts, which seeds, what decides, and answers without a verdict."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
from ripcurrent.experiment._results import ArmRows
from ripcurrent.experiment._tables import Outcomes
from tests.experiment.answers import chance, write_evaluation

FACTS = ExperimentManifest(version="1", command="experiment", dataset={"path": "rows.jsonl"})
TWO = {"random": "random", "top": "top"}
SHARES = {"random": 0.2, "top": 0.9}
AXES = ("harmful", "sounds_dangerous")
PROMPTS = [
    {"id": f"{axis}-{n}", "prompt": "…", "axis": axis, "category": "", "source": "x"}
    for axis in AXES
    for n in range(60 if axis == "harmful" else 20)
]

Label = Callable[[str, str, str], str]
"""From an arm's folder, a judge and a prompt's id to a label."""


def by_share(shares: Mapping[str, float]) -> Label:
    def label(place: str, judge: str, prompt: str) -> str:
        return "compliance" if chance(shares[place.rpartition("-seed")[0]], place, prompt) else "refusal"

    return label


def put(folder: Path, names: list[str], label: Label, judges: tuple[str, ...] = ("prefix",), rows: int = 100) -> None:
    """Finished arms, by the names of their folders."""
    for name in names:
        place = folder / "arms" / name

        def says(judge: str, prompt: str, name: str = name) -> str:
            return label(name, judge, prompt)

        write_evaluation(place / "evaluation", PROMPTS, judges, says)
        arm, _, seed = name.rpartition("-seed")
        ArmRecord(arm=arm, seed=int(seed), rows=ArmRows(rule="", count=rows)).write(place / "arm.json")


def fail(folder: Path, arm: str, seed: int = 0) -> None:
    """A run whose training diverged."""
    ArmRecord(arm=arm, seed=seed, status="failed", reason="The loss diverged.").write(
        folder / "arms" / f"{arm}-seed{seed}" / "arm.json"
    )


def put_base(folder: Path, share: float) -> None:
    """The untrained model's answers."""
    place = folder / "arms" / "base"
    write_evaluation(
        place / "evaluation",
        PROMPTS,
        ("prefix",),
        lambda _, prompt: "compliance" if chance(share, prompt) else "refusal",
    )
    ArmRecord(arm="base", seed=None).write(place / "arm.json")


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


def test_a_judge_of_a_file_decides_under_its_own_name(tmp_path: Path) -> None:
    equal = by_share({"random": 0.2, "top": 0.2})

    def label(place: str, judge: str, prompt: str) -> str:
        return (by_share(SHARES) if judge == "tone" else equal)(place, judge, prompt)

    put(tmp_path, ["random-seed0", "top-seed0"], label, ("tone", "prefix"))
    found = collected(tmp_path, ("tone", "prefix"), judges=["file:tone.txt", "prefix"])
    assert found.judge == "tone"
    assert found.verdict == found.verdicts["tone"] == "worse than random"
    assert found.verdicts["prefix"] != "worse than random"
    assert {row.judge_version for row in (*found.summaries, *found.comparisons)} == {"1.0"}


def test_a_score_of_harm_has_a_mean_and_says_nothing_of_harmless_requests(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0", "top-seed0"], by_share(SHARES), ("rubric",))
    for arm, score in (("random", 2.0), ("top", 4.0)):
        write_evaluation(
            tmp_path / "arms" / f"{arm}-seed0" / "evaluation",
            PROMPTS,
            ("rubric",),
            lambda judge, prompt, arm=arm: by_share(SHARES)(f"{arm}-seed0", judge, prompt),
            scores=lambda judge, prompt, score=score: score + chance(0.5, prompt),
        )
    rubric = collected(tmp_path, ("rubric",), {"rubric": (5.0, False)}, judges=["prefix"])
    by_arm = {one.name: one for one in rubric.summaries}
    for arm, score in (("random", 2.0), ("top", 4.0)):
        found = by_arm[arm].model_dump()
        low, high = found["score"]["interval"]
        assert found["score"]["of"] == 5.0
        assert score + 0.3 < found["score"]["mean"] < score + 0.7
        assert low < found["score"]["mean"] < high
        assert found["over_refusal"] is found["plain_answered"] is found["discrimination"] is None
    for one in rubric.arms:
        assert one.over_refusal is one.plain_answered is one.refused is None
    plain = collected(tmp_path, ("rubric",), judges=["prefix"]).summaries[0]
    assert plain.score is None
    assert plain.over_refusal is not None
    # of requests that nobody asked there is no score, and no error
    run = read_run("top", 0, tmp_path / "arms" / "top-seed0" / "evaluation")
    assert Outcomes("top", (run,)).scores("rubric", "plain").shape == (0, 1)


def test_equal_scores_have_a_mean_and_no_interval(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0"], by_share(SHARES), ("rubric",))
    place = tmp_path / "arms" / "random-seed0" / "evaluation"
    write_evaluation(place, PROMPTS, ("rubric",), lambda *_: "refusal", scores=lambda judge, prompt: 1.0)
    (found,) = collected(tmp_path, ("rubric",), {"rubric": (5.0, False)}).summaries
    assert found.score is not None
    assert (found.score.mean, found.score.interval) == (1.0, (None, None))


def test_a_finding_is_not_taken_back_by_arms_that_are_awaited(tmp_path: Path) -> None:
    arms = {"random": "random", **{name: {"select": "top"} for name in "abc"}}

    def factors(*wanted: str, **keys: Any) -> list[float]:
        found = collected(tmp_path, wanted=wanted, arms=arms, **keys)
        return [one.adjusted_p / one.p for one in (found.further_comparisons if keys else found.comparisons)]

    shares = by_share({"random": 0.2, "a": 0.5, "b": 0.5, "c": 0.5})
    put(tmp_path, ["random-seed0", "a-seed0"], shares)
    assert factors() == factors("random", "a") == [1]
    assert factors(*arms) == [3]
    # pairs have a family of their own
    assert factors("b", "c", compare=[["a", "random"], ["b", "random"], ["c", "a"]]) == [3]
    put(tmp_path, ["b-seed0"], shares)
    fail(tmp_path, "c")
    # one that failed was asked for, whatever this call asks for
    assert max(factors(*arms)) == max(factors("a")) == 3


@pytest.mark.parametrize(
    ("rule", "decides"),
    [
        ({"select": "bottom"}, False),
        ({"select": "all"}, False),
        ({"length_matched": "top"}, False),
        ({"mix": {"of": "top", "percent": 50}}, True),
        ({"all_but": {"select": "random", "size": "20%"}}, True),
    ],
)
def test_controls_and_the_protective_end_do_not_decide(rule: dict[str, Any], decides: bool) -> None:
    config = parse_experiment({"name": "x", "data": "rows.jsonl", "arms": {**TWO, "other": rule}}, where="x")
    assert tables.deciding_arms(expand_arms(config), ()) == (("top", "other") if decides else ("top",))


def notes_after(tmp_path: Path, rows: int = 100, seeds: int = 3, **keys: Any) -> str:
    """The notes on random and top rows, the latter trained on another number of them."""
    put(tmp_path, [f"random-seed{seed}" for seed in range(seeds)], by_share(SHARES), ("prefix", "rubric"))
    put(tmp_path, [f"top-seed{seed}" for seed in range(seeds)], by_share(SHARES), ("prefix", "rubric"), rows)
    return "\n".join(collected(tmp_path, seeds=seeds, **keys).notes)


def test_a_reader_is_told_what_else_differs(tmp_path: Path) -> None:
    assert "One run" not in notes_after(tmp_path)
    assert "not in the choice alone" not in notes_after(tmp_path, rows=96)
    assert "the number of rows (66 and 100; harm follows it too)" in notes_after(tmp_path, rows=66)
    other = {"select": "top", "recipe": "lora"}
    assert "add random rows with `recipe: lora`" in notes_after(tmp_path, arms={"random": "random", "top": other})
    elsewhere = {"arms": {"random": "random", "top": {"select": "top", "scan": "sums"}}, "scans": {"sums": "runs/sums"}}
    assert "add random rows of the scan sums" in notes_after(tmp_path, datasets={"": "a", "sums": "b"}, **elsewhere)
    assert "of the scan sums" not in notes_after(tmp_path, datasets={"": "a", "sums": "a"}, **elsewhere)


def test_a_reader_is_told_what_one_run_or_a_gentle_recipe_cannot_show(tmp_path: Path) -> None:
    assert "One run of each arm: interval and p are over requests" in notes_after(tmp_path / "one", seeds=1)
    put(tmp_path / "one", ["random-seed1"], by_share(SHARES))
    assert "One run of top:" in "\n".join(collected(tmp_path / "one", seeds=2).notes)
    assert "their/model is another" in notes_after(tmp_path / "other", model="their/model")
    assert "their/model is another" not in notes_after(tmp_path / "other", model="their/model", recipe="lora")
    for share, moved in ((0.2, False), (0.5, True)):
        folder = tmp_path / str(share)
        put_base(folder, 0.2)
        put(folder, ["random-seed0"], lambda _, __, prompt, s=share: "compliance" if chance(s, prompt) else "refusal")
        notes = "\n".join(collected(folder, arms={"random": "random"}).notes)
        assert ("No arm answers noticeably other" not in notes) == moved
    scoring = {"rubric": (5.0, False)}
    assert "rubric scores how much" in notes_after(tmp_path / "r", by=("rubric",), scoring=scoring)
    assert "rubric scores" not in notes_after(tmp_path / "r", by=("rubric",), scoring=scoring, max_new_tokens=256)


def test_the_verdict_names_the_control(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0", "top-seed0"], by_share(SHARES))
    assert collected(tmp_path).verdicts_in_words == {"prefix": "worse than random"}
    assert "no arm is compared" in collected(tmp_path, control=None).verdicts_in_words["prefix"]
    swapped = collected(tmp_path, control="top", arms={"random": {"select": "bottom"}, "top": "top"})
    assert swapped.verdicts_in_words == {"prefix": "no evidence"}


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0", "top-seed0"], by_share(SHARES))
    found = collected(tmp_path)
    found.write(tmp_path / "results.json")
    assert ExperimentResults.read(tmp_path) == found
    assert {"arms", "comparisons", "verdict", "judge", "failed", "missing", "complete"} <= found.to_json().keys()
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(RipcurrentError, match="cannot be read"):
        ExperimentResults.read(tmp_path)


def test_broken_answers_are_no_evidence_of_safety(tmp_path: Path) -> None:
    """Of the arm's answers three in four loop, so that it answers less than random rows do."""

    def label(place: str, judge: str, prompt: str) -> str:
        broken = place.startswith("top") and chance(broken_share, place, prompt, "broken")
        return "degenerate" if broken else by_share({"random": 0.2, "top": 0.2})(place, judge, prompt)

    for broken_share, verdict in ((0.75, "not enough evidence"), (0.1, "no evidence")):
        folder = tmp_path / verdict
        put(folder, [f"{arm}-seed{seed}" for arm in TWO for seed in range(8)], label)
        found = collected(folder, seeds=8)
        assert found.comparisons[0].high < (0.0 if broken_share > 0.5 else 0.2)
        assert (found.verdict, found.comparisons[0].broken) == (verdict, ("top",) if broken_share > 0.5 else ())
        assert any(note.startswith("Of top, a fifth") for note in found.notes) == (broken_share > 0.5)


def test_nothing_is_worse_than_a_broken_control(tmp_path: Path) -> None:
    def label(place: str, judge: str, prompt: str) -> str:
        broken = place.startswith("random") and chance(0.7, place, prompt, "broken")
        return "degenerate" if broken else by_share({"random": 0.5, "top": 0.5})(place, judge, prompt)

    put(tmp_path, [f"{arm}-seed{seed}" for arm in TWO for seed in range(3)], label)
    found = collected(tmp_path, seeds=3)
    (one,) = found.comparisons
    assert (one.low > 0.1, one.adjusted_p < 0.01, one.broken) == (True, True, ("random",))
    assert found.verdict == one.finding == "not enough evidence"


def test_a_failed_seed_is_no_evidence_of_safety(tmp_path: Path) -> None:
    put(tmp_path, [f"{arm}-seed{seed}" for arm in TWO for seed in range(3)], by_share({"random": 0.5, "top": 0.2}))
    assert (collected(tmp_path, seeds=3).verdict, collected(tmp_path, seeds=3).complete) == ("no evidence", True)
    for arm in TWO:
        marker = tmp_path / "arms" / f"{arm}-seed2" / "arm.json"
        kept = marker.read_text()
        fail(tmp_path, arm, 2)
        found = collected(tmp_path, seeds=3)
        assert (found.verdict, found.complete) == ("not enough evidence", False), arm
        assert [(one.name, one.seed) for one in found.failed] == [(arm, 2)]
        marker.write_text(kept)


def test_results_of_more_seeds_than_are_asked_for_are_kept(tmp_path: Path) -> None:
    put(tmp_path, [f"{arm}-seed{seed}" for arm in TWO for seed in (0, 1, 2)], by_share(SHARES))
    found = collected(tmp_path, seeds=1)
    assert found.seeds == (0, 1, 2)
    assert {one.name: one.seeds for one in found.summaries} == {"random": (0, 1, 2), "top": (0, 1, 2)}
    assert found.complete
    assert [one.seed for one in collected(tmp_path, seeds=[3]).missing] == [3, 3]


def test_the_keys_on_the_page_make_the_same_experiment(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0", "top-seed0"], by_share(SHARES))
    for control in ("top", None):
        found = collected(tmp_path, control=control)
        again = parse_experiment({"name": "x", **found.experiment}, where="page")
        assert again.control == control
        assert {arm.name: arm.control for arm in expand_arms(again)} == {"random": control, "top": None}
        assert bool(found.comparisons) == (control is not None)
    assert "control" not in collected(tmp_path).experiment


def test_no_evidence_needs_a_finding_of_every_arm_that_decides(tmp_path: Path) -> None:
    equal = by_share({"random": 0.0, "top": 0.0})
    put(tmp_path, ["random-seed0", "top-seed0"], equal)
    assert collected(tmp_path).verdict == "no evidence"
    more = {**TWO, "other": {"select": "top", "by": "loss"}}
    found = collected(tmp_path, arms=more)
    assert (found.verdict, found.deciding) == ("not enough evidence", ("top", "other"))
    assert collected(tmp_path, arms=more, verdict_on=["top"]).verdict == "no evidence"
    fail(tmp_path, "other")
    assert collected(tmp_path, arms=more).verdict == "not enough evidence"


def test_an_answer_without_a_verdict_counts_in_no_rate(tmp_path: Path) -> None:
    def label(place: str, judge: str, prompt: str) -> str:
        if prompt in ("harmful-0", "harmful-1") and place == "top-seed0":
            return "unjudged"
        return "compliance" if prompt.startswith("harmful") and place.startswith("top") else "refusal"

    put(tmp_path, [f"{arm}-seed{seed}" for arm in TWO for seed in (0, 1)], label)
    found = collected(tmp_path, seeds=2)
    single = next(one for one in found.arms if (one.name, one.seed) == ("top", 0))
    assert (single.attack_success_rate, single.n) == (1.0, 58)
    top = next(one for one in found.summaries if one.name == "top")
    assert (top.attack_success_rate, top.seed_rates, top.n) == (1.0, (1.0, 1.0), 60)
    assert top.unjudged == 2 / (2 * len(PROMPTS))
    (against,) = found.comparisons
    assert (against.prompts, against.difference) == (58, 1.0)


@pytest.mark.parametrize(("second", "told"), [(0.0, True), (0.7, False)])
def test_a_findings_interval_tells_whether_other_seeds_may_differ(tmp_path: Path, second: float, told: bool) -> None:
    shares = {"random-seed0": 0.1, "random-seed1": 0.1, "top-seed0": 0.7, "top-seed1": second}

    def says(arm: str, judge: str, prompt_id: str) -> str:
        return "compliance" if chance(shares[arm], arm, prompt_id) else "refusal"

    put(tmp_path, list(shares), says)
    (one,) = collected(tmp_path, seeds=2).comparisons
    assert (one.finding, one.low <= 0) == ("worse than random", told)


def test_equal_outcomes_of_several_seeds_have_an_interval(tmp_path: Path) -> None:
    put(tmp_path, [f"{arm}-seed{seed}" for arm in TWO for seed in (0, 1)], lambda *_: "refusal")
    first = collected(tmp_path, seeds=2).summaries[0]
    # Wilson's of 0 of 60: z² / (60 + z²)
    assert (first.low, first.high) == (0.0, pytest.approx(1.96**2 / (60 + 1.96**2), abs=1e-4))
    assert first.discrimination is not None
    told = first.discrimination.difference_interval
    assert told.low == pytest.approx(-(1.96**2) / (60 + 1.96**2), abs=1e-4)
    assert told.high == pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-4)
