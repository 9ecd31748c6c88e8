"""Experiment files: what is filled in, expanded, and named when it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import expand_arms, load_experiment, parse_experiment

FIRST: dict[str, Any] = {"name": "x", "data": "rows.jsonl", "arms": {"random": "random", "top": "top"}}


def names(**changes: Any) -> list[str]:
    return [arm.name for arm in expand_arms(parse_experiment({**FIRST, **changes}, where="x.yaml"))]


def controls(**changes: Any) -> dict[str, str | None]:
    return {arm.name: arm.control for arm in expand_arms(parse_experiment({**FIRST, **changes}, where="x.yaml"))}


def refused(*says: str, **changes: Any) -> None:
    with pytest.raises(RipcurrentError) as caught:
        parse_experiment({**FIRST, **changes}, where="x.yaml")
    text = str(caught.value)
    assert len(text.splitlines()) == 2, text
    for part in says:
        assert part in text, text


def test_bins_shares_and_grids_become_single_arms() -> None:
    arms = {"random": "random", "bins": {"bins": 5}, "lists": {"share": {"format": "list", "percent": [0, 50, 100]}}}
    assert names(arms=arms) == ["random", *(f"bins-{n}" for n in range(1, 6)), "lists-0", "lists-50", "lists-100"]
    grid = {"select": ["top", "bottom"], "by": ["gradient_harmful", "loss_first_10"], "size": 50}
    assert names(arms={"random": "random"}, grid=grid) == [
        "random",
        "top-gradient_harmful",
        "top-loss_first_10",
        "bottom-gradient_harmful",
        "bottom-loss_first_10",
    ]


def test_no_arm_is_compared_with_one_of_another_size_unsaid() -> None:
    own = {"select": "top", "size": 30}
    refused("arm own has 30 rows", "random-30", arms={"random": "random", "own": own}, sizes=[10, 500])
    bins = {"bins": 2, "size": 100}
    refused("arm bins-1 has 100 rows", arms={"random": "random", "bins": bins}, sizes=[10, 500])
    arms = {"random": "random", "own": own, "random-30": {"select": "random", "size": 30}}
    found = controls(arms={**arms, "length": {"length_matched": "own"}}, sizes=[10, 500])
    assert (found["own"], found["length"]) == ("random-30", "random-30")


def test_rows_of_another_scan_are_compared_with_its_own_random_rows() -> None:
    arms = {
        "random": "random",
        "top": "top",
        "sums": {"select": "top", "scan": "sums", "size": 100},
        "sums_random": {"select": "random", "scan": "sums", "size": 100},
        "few_sums": {"select": "top", "scan": "sums", "size": 20},
    }
    found = controls(arms=arms, scans={"sums": "runs/sums"}, size=100)
    assert found["sums"] == "sums_random"
    assert found["top"] == found["sums_random"] == found["few_sums"] == "random"
    named = controls(arms=arms, scans={"sums": "runs/sums"}, control="top")
    assert named["sums"] == "top"


def test_an_arm_of_another_recipe_is_compared_with_random_rows_of_it() -> None:
    arms = {
        "random": "random",
        "top": "top",
        "random_lora": {"select": "random", "recipe": "lora"},
        "top_lora": {"select": "top", "recipe": "lora"},
        "top_paper": {"select": "top", "recipe": "paper"},
        "same": {"select": "top", "recipe": "embedded"},
    }
    expected = {"random": None, "top": "random", "random_lora": None, "top_lora": "random_lora"}
    assert controls(arms=arms) == {**expected, "top_paper": "random", "same": "random"}


def test_without_a_random_arm_the_error_says_what_compares() -> None:
    refused("every arm is compared with one named random", "control: null", arms={"top": "top"})
    refused("seeds 'three' is not possible: write a number such as 3", seeds="three")


def test_every_size_has_a_control_of_its_own() -> None:
    found = controls(arms={"random": "random", "top": "top", "length": {"length_matched": "top"}}, sizes=[10, 50])
    assert found == {
        "random-10": None,
        "random-50": None,
        "top-10": "random-10",
        "top-50": "random-50",
        "length-10": "random-10",
        "length-50": "random-50",
    }
    config = parse_experiment(
        {**FIRST, "arms": {"random": "random", "top": "top", "l": {"length_matched": "top"}}, "sizes": [10, 50]},
        where="x.yaml",
    )
    assert {arm.name: arm.of for arm in expand_arms(config) if arm.of} == {"l-10": "top-10", "l-50": "top-50"}


def test_variables_are_filled_in_and_named_when_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"data": "${ROWS_FOLDER}/rows.jsonl", "arms": {"random": "random"}}))
    monkeypatch.setenv("ROWS_FOLDER", "/somewhere")
    config = load_experiment(path)
    assert (config.name, config.data) == ("mine", "/somewhere/rows.jsonl")
    monkeypatch.delenv("ROWS_FOLDER")
    with pytest.raises(RipcurrentError, match="ROWS_FOLDER, which is not set"):
        load_experiment(path)


def test_what_is_unknown_is_named_with_the_nearest() -> None:
    refused("x.yaml: there is no key 'reciep'", "Did you mean recipe?", reciep="paper")
    refused("arms: a: there is no key 'szie'", "size", arms={"a": {"select": "top", "szie": 5}})
    refused("arms: a: there is no selection 'tpo'", "Did you mean top?", arms={"a": "tpo"})
    refused("there is no selection 'length_match'", "length_matched", arms={"random": "random", "a": "length_match"})
    refused("a: draw 'lists' is not possible", "Did you mean list?", arms={"a": {"draw": "lists"}})
    refused("a: share: format 'bulet'", "bullet", arms={"a": {"share": {"format": "bulet", "percent": 5}}})
    refused(
        "arm l: there is no arm 'topp'",
        "Did you mean top?",
        arms={**FIRST["arms"], "l": {"length_matched": "topp"}},
    )
    refused(
        "arm a: there is no scan 'secnd'",
        "second",
        arms={"random": "random", "a": {"select": "top", "scan": "secnd"}},
        scans={"second": {"options": {"anchors": "second_family"}}},
    )
    refused("compare: there is no arm 'tpo'", "top", compare=[["tpo", "random"]])
    refused("prompts: there is no key 'axes'", "axis", prompts=[{"source": "builtin", "axes": "harmful"}])


def test_one_judge_may_be_a_bare_word() -> None:
    assert parse_experiment({**FIRST, "judges": "prefix"}, where="x.yaml").judges == ("prefix",)


def test_what_cannot_be_is_refused() -> None:
    refused("x.yaml: arms ['top', 'random'] is not possible", "needs a name", "random: random", arms=["top", "random"])
    refused("x.yaml: scans 'runs/a' is not possible", "needs a name", "second: runs/second", scans="runs/a")
    refused("exactly one of select", "it has select and draw", arms={"a": {"select": "top", "draw": "list"}})
    refused("it has none", arms={"a": {"by": "loss"}})
    refused("format means nothing beside select", arms={"a": {"select": "top", "format": "list"}})
    refused("size means nothing beside length_matched", arms={"b": "top", "a": {"length_matched": "b", "size": 5}})
    refused("by means nothing beside draw", arms={"a": {"draw": "list", "by": "loss"}})
    refused("strata means nothing beside select", arms={"a": {"select": "top", "strata": 5}})
    refused("size means nothing beside select: all", arms={"a": {"select": "all", "size": 5}})
    refused("by means nothing beside select: random", arms={"a": {"select": "random", "by": "loss"}})
    refused("scan means nothing beside file", scans={"s": "runs/s"}, arms={"a": {"file": "rows.jsonl", "scan": "s"}})
    refused("draw_seed means nothing beside all_but: b", arms={"b": "top", "a": {"all_but": "b", "draw_seed": 0}})
    inner = {"select": "random", "size": 5, "draw_seed": 0}
    refused("draw_seed stands beside all_but, not in it", arms={"a": {"all_but": inner}})
    refused("one percent", arms={"a": {"all_but": {"share": {"format": "list", "percent": [0, 50]}}}})
    refused("all_but takes the name of an arm, or", arms={"b": "top", "a": {"all_but": {"length_matched": "b"}}})
    refused("there is no scan 'x'", arms={"random": "random", "a": {"all_but": {"select": "top", "scan": "x"}}})
    refused("size", "no number of rows", arms={"a": {"select": "top", "size": "many"}})
    refused("size 0", size=0)
    refused("there are no arms", arms={})
    refused("seeds", seeds=[0, 0])
    refused("either run", run="runs/x", scan={"anchors": "builtin"})
    refused("give data", data=None)
    for rule in ("length_matched", "format_matched", "all_but"):
        arms = {"random": "random", "f": {"file": "f.jsonl"}, "a": {rule: "f"}}
        refused("arm a is made from arm f, whose rows are of a file", "`scans:`", arms=arms)
    refused("refers to itself", arms={"random": "random", "a": {"length_matched": "b"}, "b": {"length_matched": "a"}})
    refused("cannot be the name", arms={"random": "random", "a/b": "top"})
    refused("'base' cannot be the name", arms={"random": "random", "base": "top"})
    refused("two arms are named 'bins-1'", arms={"random": "random", "bins-1": "top", "bins": {"bins": 2}})


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text("arms: [\n")
    with pytest.raises(RipcurrentError, match="not readable as YAML: line 2"):
        load_experiment(tmp_path / "paper.yaml")
    with pytest.raises(RipcurrentError, match=r"Did you mean paper\.yaml"):
        load_experiment(tmp_path / "papper.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(RipcurrentError, match="no keys"):
        load_experiment(tmp_path / "empty.yaml")
    (tmp_path / "twice.yaml").write_text("data: d\narms:\n  top: random\n  top: bottom\n")
    with pytest.raises(RipcurrentError, match="line 4: 'top' stands there twice"):
        load_experiment(tmp_path / "twice.yaml")


def test_arms_that_leave_rows_out_are_ordered_by_what_is_left() -> None:
    for sizes in ([10, 50, 100], ["10%", "20%", "50%"]):
        arms = {"random": "random", "top": "top", "rest": {"all_but": "top"}}
        config = parse_experiment({"name": "x", "data": "d", "arms": arms, "sizes": sizes}, where="x")
        assert [arm.order for arm in expand_arms(config) if arm.group == "rest"] == [None] * 3


def test_what_an_arm_is_made_from_is_one_arm() -> None:
    keys = {"name": "x", "data": "d", "sizes": [50, 100], "arms": {"random": "random"}}
    grid = [{"select": ["top", "bottom"]}]
    config = parse_experiment(
        {**keys, "grid": grid, "arms": {**keys["arms"], "lm": {"length_matched": "top"}}}, where="x"
    )
    assert {arm.name: arm.of for arm in expand_arms(config) if arm.of} == {"lm-50": "top-50", "lm-100": "top-100"}
    share = {"share": {"format": "list", "percent": [0, 50, 100]}}
    arms = {"random": "random", "s": share, "lm": {"length_matched": "s"}}
    with pytest.raises(RipcurrentError, match="is made from s, of which there are several arms") as caught:
        expand_arms(parse_experiment({"name": "x", "data": "d", "arms": arms}, where="x"))
    assert "s-0, s-50, s-100" in caught.value.hint
    named = {**arms, "lm": {"length_matched": "s-50"}}
    assert {arm.of for arm in expand_arms(parse_experiment({"name": "x", "data": "d", "arms": named}, where="x"))} == {
        None,
        "s-50",
    }


def test_a_verdict_is_on_arms_that_are_compared() -> None:
    keys = {"name": "x", "data": "d", "arms": {"random": "random", "top": "top"}, "verdict_on": ["random"]}
    with pytest.raises(RipcurrentError, match="arm random has no control"):
        expand_arms(parse_experiment(keys, where="x"))
