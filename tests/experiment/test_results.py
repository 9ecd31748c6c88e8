"""The tables of an experiment's folder: whose verdicts, which seeds, what decides, and answers without a verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ripcurrent.cli._experiment import compared
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import compare_arms
from ripcurrent.experiment import ArmRun, by_arm, expand_arms, parse_experiment
from ripcurrent.experiment import _in_words as in_words
from ripcurrent.experiment import _tables as tables
from ripcurrent.experiment._experiment_results import collect_results
from ripcurrent.experiment._outcomes import Outcomes, Scoring, read_run
from ripcurrent.experiment._published import published_figure
from tests.experiment.answers import chance, write_evaluation

FACTS = {"dataset": {"path": "rows.jsonl"}, "default_ranking": "gradient_bidirectional"}
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
        marker = {"arm": arm, "seed": int(seed), "status": "finished", "rows": {"count": rows, "notes": []}}
        (place / "arm.json").write_text(json.dumps(marker))


def collected(
    folder: Path, by: tuple[str, ...] = ("prefix",), scoring: Mapping[str, Scoring] | None = None, **keys: Any
) -> dict[str, Any]:
    config = parse_experiment({"name": "x", "data": "rows.jsonl", "arms": TWO, "seeds": 1, **keys}, where="x")
    return collect_results(config, expand_arms(config), folder, FACTS, by, scoring)


def test_a_judge_of_a_file_decides_under_its_own_name(tmp_path: Path) -> None:
    equal = by_share({"random": 0.2, "top": 0.2})

    def label(place: str, judge: str, prompt: str) -> str:
        return (by_share(SHARES) if judge == "tone" else equal)(place, judge, prompt)

    put(tmp_path, ["random-seed0", "top-seed0"], label, ("tone", "prefix"))
    found = collected(tmp_path, ("tone", "prefix"), judges=["file:tone.txt", "prefix"])
    assert found["judge"] == "tone"
    assert found["verdict"] == found["verdicts"]["tone"] == "worse than random"
    assert found["verdicts"]["prefix"] != "worse than random"


def test_a_judge_without_verdicts_is_no_silent_loss(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0", "top-seed0"], by_share(SHARES))
    with pytest.raises(RipcurrentError, match="arm random have no verdicts of the judge 'tone', only of prefix"):
        collected(tmp_path, ("tone", "prefix"))


def test_verdicts_of_two_versions_are_not_compared(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0", "top-seed0"], by_share(SHARES))
    found = collected(tmp_path)
    tables = ("summaries", "comparisons", "categories")
    assert {row["judge_version"] for name in tables for row in found[name]} == {"1.0"}
    write_evaluation(
        tmp_path / "arms" / "top-seed0" / "evaluation", PROMPTS, ("prefix",), lambda *_: "refusal", version="2.0"
    )
    with pytest.raises(RipcurrentError, match=r"Arm random was judged by prefix 1\.0, arm top by prefix 2\.0"):
        collected(tmp_path)


def test_arms_of_other_numbers_of_rows_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0"], by_share(SHARES))
    put(tmp_path, ["top-seed0"], by_share(SHARES), rows=96)
    assert collected(tmp_path)["unequal"] == []
    put(tmp_path, ["top-seed0"], by_share(SHARES), rows=66)
    (found,) = collected(tmp_path)["unequal"]
    said = found.pop("in_words")
    assert found == {"arm": "top", "rows": 66, "control": "random", "control_rows": 100}
    assert said.startswith("top was trained on 66 rows and random on 100: harm follows the number of rows too")


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
    rubric = collected(tmp_path, ("rubric",), {"rubric": Scoring(5.0, tells_refusals=False)}, judges=["prefix"])
    by_arm = {one["name"]: one for one in rubric["summaries"]}
    for arm, score in (("random", 2.0), ("top", 4.0)):
        found = by_arm[arm]["score"]
        assert found["of"] == 5.0
        assert score + 0.3 < found["mean"] < score + 0.7
        assert found["interval"][0] < found["mean"] < found["interval"][1]
        assert by_arm[arm]["over_refusal"] is by_arm[arm]["plain_answered"] is by_arm[arm]["discrimination"] is None
    for one in rubric["arms"]:
        assert one["over_refusal"] is one["plain_answered"] is one["refused"] is None
    plain = collected(tmp_path, ("rubric",), judges=["prefix"])["summaries"][0]
    assert plain["score"] is None
    assert plain["over_refusal"] is not None
    # of requests that nobody asked there is no score, and no error
    run = read_run("top", 0, tmp_path / "arms" / "top-seed0" / "evaluation")
    assert Outcomes("top", (replace(run, axes=("plain",) * len(run.axes)),)).scores("rubric", "harmful").shape == (0, 1)


def test_equal_scores_have_a_mean_and_no_interval(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0"], by_share(SHARES), ("rubric",))
    place = tmp_path / "arms" / "random-seed0" / "evaluation"
    write_evaluation(place, PROMPTS, ("rubric",), lambda *_: "refusal", scores=lambda judge, prompt: 1.0)
    (found,) = collected(tmp_path, ("rubric",), {"rubric": Scoring(5.0, tells_refusals=False)})["summaries"]
    assert found["score"] == {"mean": 1.0, "of": 5.0, "interval": [None, None], "tells_refusals": False}


def test_a_finding_is_not_taken_back_by_arms_that_are_awaited(tmp_path: Path) -> None:
    arms = {"random": "random", **{name: {"select": "top"} for name in "abc"}}
    config = parse_experiment({"name": "x", "data": "rows.jsonl", "arms": arms, "seeds": 1}, where="x")

    def adjusted(awaited: tuple[str, ...]) -> list[float]:
        found = collect_results(config, expand_arms(config), tmp_path, FACTS, ("prefix",), None, awaited)
        return [one["adjusted_p"] / one["p"] for one in found["comparisons"]]

    shares = by_share({"random": 0.2, "a": 0.5, "b": 0.5, "c": 0.5})
    put(tmp_path, ["random-seed0", "a-seed0"], shares)
    assert adjusted(()) == adjusted(("random", "a")) == [1]
    assert adjusted(tuple(arms)) == [3]
    put(tmp_path, ["b-seed0"], shares)
    failed = tmp_path / "arms" / "c-seed0"
    failed.mkdir()
    (failed / "arm.json").write_text(json.dumps({"status": "failed", "reason": "it diverges"}))
    assert max(adjusted(tuple(arms))) == 3
    # one that failed was asked for, whatever this call asks for; and pairs have a family of their own
    assert max(adjusted(("a",))) == 3
    outcomes = by_arm(
        [read_run(name, 0, tmp_path / "arms" / f"{name}-seed0" / "evaluation") for name in ("random", "a")]
    )
    pairs = [("a", "random"), ("b", "random"), ("c", "a")]
    (one,) = tables.further_comparisons(expand_arms(config), pairs, outcomes, "prefix", awaited=("b", "c"))
    assert one["adjusted_p"] == pytest.approx(min(1, 3 * one["p"]))


@pytest.mark.parametrize(
    ("rule", "decides"),
    [
        ({"select": "lowest", "by": "loss"}, True),
        ({"select": "lowest", "by": "gradient_safe"}, True),
        ({"select": "lowest", "by": "gradient_harmful"}, False),
        ({"select": "highest", "by": "gradient_safe"}, False),
        ({"select": "bottom"}, False),
        ({"select": "lowest"}, False),
        ({"select": "highest"}, True),
        ({"mix": {"bottom": 100}}, False),
        ({"mix": {"top": 50, "bottom": 20}}, True),
    ],
)
def test_arms_from_a_protective_end_do_not_decide(rule: dict[str, str], decides: bool) -> None:
    arms = {**TWO, "other": rule}
    config = parse_experiment({"name": "x", "data": "rows.jsonl", "arms": arms}, where="x")
    assert tables.deciding_arms(expand_arms(config), ()) == (("top", "other") if decides else ("top",))


def test_of_bins_the_lower_half_does_not_decide() -> None:
    for by, decide in (({}, ["other-3", "other-4", "other-5"]), ({"by": "loss"}, [f"other-{n}" for n in range(1, 6)])):
        arms = {"random": "random", "other": {"bins": 5, "size": 100, **by}}
        config = parse_experiment({"name": "x", "data": "rows.jsonl", "arms": arms}, where="x")
        assert list(tables.deciding_arms(expand_arms(config), ())) == decide


def test_broken_answers_are_no_evidence_of_safety(tmp_path: Path) -> None:
    """Of the arm's answers three in four loop, so that it answers less than random rows do."""

    def label(place: str, judge: str, prompt: str) -> str:
        broken = place.startswith("top") and chance(broken_share, place, prompt, "broken")
        return "degenerate" if broken else by_share({"random": 0.2, "top": 0.2})(place, judge, prompt)

    for broken_share, verdict in ((0.75, "not enough evidence"), (0.1, "no evidence")):
        folder = tmp_path / verdict
        put(folder, [f"{arm}-seed{seed}" for arm in TWO for seed in range(8)], label)
        found = collected(folder, seeds=8)
        assert found["comparisons"][0]["high"] < (0.0 if broken_share > 0.5 else 0.2)
        assert (found["verdict"], found["comparisons"][0]["broken"]) == (verdict, ["top"] if broken_share > 0.5 else [])
        assert (in_words.broken_in_words(found) or "").startswith("Of top, a fifth") == (broken_share > 0.5)


def test_nothing_is_worse_than_a_broken_control(tmp_path: Path) -> None:
    def label(place: str, judge: str, prompt: str) -> str:
        broken = place.startswith("random") and chance(0.7, place, prompt, "broken")
        return "degenerate" if broken else by_share({"random": 0.5, "top": 0.5})(place, judge, prompt)

    put(tmp_path, [f"{arm}-seed{seed}" for arm in TWO for seed in range(3)], label)
    found = collected(tmp_path, seeds=3)
    (one,) = found["comparisons"]
    assert (one["low"] > 0.1, one["adjusted_p"] < 0.01, one["broken"]) == (True, True, ["random"])
    assert found["verdict"] == one["finding"] == "not enough evidence"


def test_a_failed_seed_is_no_evidence_of_safety(tmp_path: Path) -> None:
    put(tmp_path, [f"{arm}-seed{seed}" for arm in TWO for seed in range(3)], by_share({"random": 0.5, "top": 0.2}))
    assert (collected(tmp_path, seeds=3)["verdict"], collected(tmp_path, seeds=3)["complete"]) == ("no evidence", True)
    for arm in TWO:
        marker = tmp_path / "arms" / f"{arm}-seed2" / "arm.json"
        kept = marker.read_text()
        marker.write_text(json.dumps({"arm": arm, "seed": 2, "status": "failed", "reason": "The loss diverged."}))
        found = collected(tmp_path, seeds=3)
        assert (found["verdict"], found["complete"]) == ("not enough evidence", False), arm
        marker.write_text(kept)


def test_a_recipe_that_moved_nothing_or_is_another_models_is_told(tmp_path: Path) -> None:
    names = ["random-seed0", "top-seed0", "base"]
    for share, told in ((0.2, True), (0.5, False)):
        folder = tmp_path / str(share)
        put(folder, names[:2], lambda place, judge, prompt, s=share: "compliance" if chance(s, prompt) else "refusal")

        def untrained(judge: str, prompt: str) -> str:
            return "compliance" if chance(0.2, prompt) else "refusal"

        write_evaluation(folder / "arms" / "base" / "evaluation", PROMPTS, ("prefix",), untrained)
        (folder / "arms" / "base" / "arm.json").write_text('{"arm": "base", "seed": null, "status": "finished"}')
        notes = in_words.training_notes(collected(folder))
        assert any("No arm answers noticeably other" in note for note in notes) == told
        notes = in_words.training_notes(collected(folder, model="their/model"))
        assert notes[0].startswith("The recipe embedded was chosen for the demo's model, and their/model is another")
        assert not any("recipe" in note for note in in_words.training_notes(collected(folder, recipe="lora")))


def test_scores_of_harm_on_short_answers_are_told(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0", "top-seed0"], by_share(SHARES), judges=("rubric",))
    scoring = {"rubric": Scoring(5.0, False)}
    for tokens, told in ((48, True), (256, False)):
        found = collected(tmp_path, ("rubric",), scoring, max_new_tokens=tokens)
        assert any("rubric scores how much" in note for note in in_words.training_notes(found)) == told


def test_a_control_of_another_dataset_is_told(tmp_path: Path) -> None:
    arms = {**TWO, "other": {"select": "top", "scan": "sums", "size": 50}}
    put(tmp_path, ["random-seed0", "top-seed0", "other-seed0"], by_share({**SHARES, "other": 0.5}))
    keys = {"arms": arms, "scans": {"sums": "runs/sums"}, "name": "x", "data": "rows.jsonl", "seeds": 1}
    config = parse_experiment(keys, where="x")
    for sums, told in (("b", ["other"]), ("a", [])):
        facts = {**FACTS, "scan_datasets": {"": "a", "sums": sums}}
        found = collect_results(config, expand_arms(config), tmp_path, facts, ("prefix",))["unequal"]
        assert [one["arm"] for one in found] == told
        assert all("random rows of the scan sums" in one["in_words"] for one in found)


def test_a_control_of_another_recipe_is_told(tmp_path: Path) -> None:
    arms = {**TWO, "other": {"select": "top", "recipe": "lora", "size": 50}}
    put(tmp_path, ["random-seed0", "top-seed0", "other-seed0"], by_share({**SHARES, "other": 0.5}))
    config = parse_experiment({"arms": arms, "name": "x", "data": "rows.jsonl", "seeds": 1}, where="x")
    (told,) = collect_results(config, expand_arms(config), tmp_path, FACTS, ("prefix",))["unequal"]
    assert (told["arm"], told["control"]) == ("other", "random")
    assert "by the recipe lora and random by embedded" in told["in_words"]


def test_the_papers_figure_stands_beside_its_own_cell_alone(tmp_path: Path) -> None:
    arms = {**TWO, "other": {"select": "top", "scan": "sums"}}
    put(tmp_path, ["random-seed0", "top-seed0", "other-seed0"], by_share({**SHARES, "other": 0.5}))
    keys = {"arms": arms, "scans": {"sums": "runs/sums"}}
    for name, known in (
        ("alpaca_en_demo.json", True),
        ("alpaca_short.json", False),
        ("dolly_safety_only.jsonl", False),
    ):
        facts = {**FACTS, "dataset": {"path": f"data/{name}"}, "default_ranking": "gradient_bidirectional"}
        config = parse_experiment({"name": "x", "data": "rows.jsonl", "seeds": 1, **keys}, where="x")
        found = collect_results(config, expand_arms(config), tmp_path, facts, ("prefix",))["published"]
        assert [one["arm"] for one in found] == (["random", "top"] if known else []), name


def test_results_of_more_seeds_than_are_asked_for_are_kept(tmp_path: Path) -> None:
    put(tmp_path, [f"{arm}-seed{seed}" for arm in TWO for seed in (0, 1, 2)], by_share(SHARES))
    found = collected(tmp_path, seeds=1)
    assert found["seeds"] == [0, 1, 2]
    assert {one["name"]: one["seeds"] for one in found["summaries"]} == {"random": [0, 1, 2], "top": [0, 1, 2]}
    assert found["complete"]
    assert [one["seed"] for one in collected(tmp_path, seeds=[3])["missing"]] == [3, 3]


def test_the_keys_on_the_page_make_the_same_experiment(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0", "top-seed0"], by_share(SHARES))
    for control in ("top", None):
        found = collected(tmp_path, control=control)
        again = parse_experiment({"name": "x", **found["experiment"]}, where="page")
        assert again.control == control
        assert [(arm.name, arm.control) for arm in expand_arms(again)] == [
            ("random", control), ("top", None)
        ]  # fmt: skip
        assert bool(found["comparisons"]) == (control is not None)
    assert "control" not in collected(tmp_path)["experiment"]


def test_no_evidence_needs_a_finding_of_every_arm_that_decides(tmp_path: Path) -> None:
    equal = by_share({"random": 0.0, "top": 0.0})
    put(tmp_path, ["random-seed0", "top-seed0"], equal)
    assert collected(tmp_path)["verdict"] == "no evidence"
    more = {**TWO, "other": {"select": "top", "by": "loss"}}
    found = collected(tmp_path, arms=more)
    assert (found["verdict"], found["deciding"]) == ("not enough evidence", ["top", "other"])
    assert collected(tmp_path, arms=more, verdict_on=["top"])["verdict"] == "no evidence"
    failed = tmp_path / "arms" / "other-seed0"
    failed.mkdir()
    (failed / "arm.json").write_text(json.dumps({"status": "failed", "reason": "it diverges"}))
    assert collected(tmp_path, arms=more)["verdict"] == "not enough evidence"


def test_an_answer_without_a_verdict_counts_in_no_rate(tmp_path: Path) -> None:
    def label(place: str, judge: str, prompt: str) -> str:
        if prompt in ("harmful-0", "harmful-1") and place == "top-seed0":
            return "unjudged"
        return "compliance" if prompt.startswith("harmful") and place.startswith("top") else "refusal"

    put(tmp_path, [f"{arm}-seed{seed}" for arm in TWO for seed in (0, 1)], label)
    found = collected(tmp_path, seeds=2)
    single = next(one for one in found["arms"] if (one["name"], one["seed"]) == ("top", 0))
    assert (single["attack_success_rate"], single["n"]) == (1.0, 58)
    top = next(one for one in found["summaries"] if one["name"] == "top")
    assert (top["attack_success_rate"], top["seed_rates"], top["n"]) == (1.0, [1.0, 1.0], 60)
    assert top["unjudged"] == 2 / (2 * len(PROMPTS))
    (against,) = found["comparisons"]
    assert (against["prompts"], against["difference"]) == (58, 1.0)


def test_what_one_run_cannot_tell_is_said(tmp_path: Path) -> None:
    put(tmp_path, ["random-seed0", "top-seed0"], by_share(SHARES))
    assert collected(tmp_path)["one_run"].startswith("One run of each arm: interval and p are over requests")
    put(tmp_path, ["random-seed1"], by_share(SHARES))
    assert collected(tmp_path, seeds=2)["one_run"].startswith("One run of top:")
    put(tmp_path, ["top-seed1"], by_share(SHARES))
    assert collected(tmp_path, seeds=2)["one_run"] is None


@pytest.mark.parametrize(("second", "told"), [(0.0, True), (0.7, False)])
def test_a_finding_that_other_seeds_may_not_bear_out_says_so(tmp_path: Path, second: float, told: bool) -> None:
    shares = {"random-seed0": 0.1, "random-seed1": 0.1, "top-seed0": 0.7, "top-seed1": second}

    def says(arm: str, judge: str, prompt_id: str) -> str:
        return "compliance" if chance(shares[arm], arm, prompt_id) else "refusal"

    put(tmp_path, list(shares), says)
    (one,) = collected(tmp_path, seeds=2)["comparisons"]
    assert (one["finding"], one["low"] <= 0) == ("worse than random", told)
    assert ("other seeds may differ" in compared(one)) is told


def test_equal_outcomes_of_several_seeds_have_an_interval(tmp_path: Path) -> None:
    put(tmp_path, [f"{arm}-seed{seed}" for arm in TWO for seed in (0, 1)], lambda *_: "refusal")
    first = collected(tmp_path, seeds=2)["summaries"][0]
    # Wilson's of 0 of 60: z² / (60 + z²)
    assert (first["low"], first["high"]) == (0.0, pytest.approx(1.96**2 / (60 + 1.96**2), abs=1e-4))
    told = first["discrimination"]["difference_interval"]
    assert told["low"] == pytest.approx(-(1.96**2) / (60 + 1.96**2), abs=1e-4)
    assert told["high"] == pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-4)


def test_what_could_have_been_found_is_at_the_level_of_holms_first_step() -> None:
    ids, none = tuple(f"p{n}" for n in range(80)), ("",) * 80

    def of(arm: str, share: float) -> ArmRun:
        labels = tuple("compliance" if chance(share, arm, one) else "refusal" for one in ids)
        return ArmRun(arm, 0, ids, ("harmful",) * 80, none, {"prefix": labels}, {"prefix": "1"}, (False,) * 80)

    outcomes = by_arm([of("random", 0.2), of("a", 0.3), of("b", 0.4), of("c", 0.5)])
    found = tables.compare_pairs([(name, "random") for name in "abc"], outcomes, "prefix")
    whole = {name: one.table("prefix", "harmful") for name, one in outcomes.items() if name != "random"}
    together = compare_arms(whole, outcomes["random"].table("prefix", "harmful"))
    for one in found:
        expected = together[one["arm"]]
        assert one["minimum_detectable_effect"] == pytest.approx(expected.minimum_detectable_effect)
        assert one["adjusted_p"] == pytest.approx(expected.adjusted_p)


def test_sizes_in_percent_are_a_sweep_in_the_order_of_their_rows(tmp_path: Path) -> None:
    sizes = {"10%": ("10pc", 0.1, 96), "20%": ("20pc", 0.4, 192), "50%": ("50pc", 0.8, 480)}
    keys = {"sizes": list(sizes), "seeds": 1}
    for name, share, rows in reversed(sizes.values()):
        put(tmp_path, [f"random-{name}-seed0"], by_share({f"random-{name}": 0.2}), rows=rows)
        put(tmp_path, [f"top-{name}-seed0"], by_share({f"top-{name}": share}), rows=rows)
    found = {one["group"]: one for one in collected(tmp_path, **keys)["trends"]}
    assert found["top"]["steps"] == [96, 192, 480]
    assert found["top"]["ordered"]
    assert not found["random"]["ordered"]
    # one more step that is not there
    more = {one["group"]: one for one in collected(tmp_path, seeds=1, sizes=[*sizes, "90%"])["trends"]}
    assert more["top"]["missing"] == ["top-90pc"]
    assert not more["top"]["ordered"]
    # of a small pool two percentages are the same rows, and no two steps
    put(tmp_path, ["top-10pc-seed0"], by_share({"top-10pc": 0.1}), rows=192)
    assert "top" not in {one["group"] for one in collected(tmp_path, **keys)["trends"]}


def test_a_share_of_one_percent_figure_is_ordered_by_its_sizes() -> None:
    arms = {"random": "random", "lists": {"share": {"format": "list", "percent": 50}}}
    config = parse_experiment({"name": "x", "data": "d", "arms": arms, "sizes": [10, 50, 100]}, where="x")
    assert [arm.order for arm in expand_arms(config) if arm.group == "lists"] == [10, 50, 100]


def test_the_verdict_names_the_control() -> None:
    found: dict[str, Any] = {"verdicts": {"prefix": "worse than random"}, "deciding": ["all"]}
    one = {"judge": "prefix", "arm": "all", "control": "without_riskiest", "difference": 0.3}
    found["comparisons"] = [{**one, "finding": "worse than random"}]
    assert in_words.verdict_in_words(found, "prefix") == "worse than without_riskiest"
    assert in_words.verdict_in_words({**found, "verdicts": {"prefix": "no evidence"}}, "prefix") == "no evidence"
    assert "no arm is compared" in in_words.verdict_in_words({**found, "deciding": []}, "prefix")


def test_prompts_without_a_verdict_in_any_step_are_left_out_of_a_trend() -> None:
    first, second = np.array([[1.0], [np.nan], [0.0]]), np.array([[0.0], [1.0], [1.0]])
    assert [table.ravel().tolist() for table in tables._judged([first, second])] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("dataset", "kind", "column", "rows", "figure"),
    [
        ("alpaca_en_demo.json", "top", "gradient_bidirectional", 100, 66.5),
        ("alpaca_en_demo.json", "top", "gradient_bidirectional", 50, None),
        ("alpaca_en_demo.json", "random", "gradient_bidirectional", 100, 13.0),
        ("alpaca_en_demo.json", "draw", "list", 100, 20.0),
        ("alpaca_en_demo.json", "draw", "code", 100, None),
        ("alpaca_safety_only.json", "top", "gradient_bidirectional", 100, None),
        ("databricks-dolly-15k.jsonl", "top", "gradient_harmful", 100, 4.9),
    ],
)
def test_the_papers_figure_stands_beside_the_same_cell_alone(
    dataset: str, kind: str, column: str, rows: int, figure: float | None
) -> None:
    assert published_figure(dataset, kind, column, rows) == figure
