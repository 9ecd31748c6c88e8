"""Experiment files: what is filled in, expanded, and named when it is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import Experiment, expand_arms, parse_experiment

FIRST: dict[str, Any] = {"name": "x", "data": "rows.jsonl", "arms": {"random": "random", "top": "top"}}

LENGTH = {"length_matched": "b"}
MIXTURES = {"mix": {"of": "top", "percent": [1, 2]}}
SECOND = {"select": "top", "scan": "secnd"}


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


def test_percents_of_a_mixture_become_single_arms() -> None:
    lists = {"mix": {"of": "list", "percent": [0, 50, 100]}}
    assert names(arms={"random": "random", "lists": lists}) == ["random", "lists-0", "lists-50", "lists-100"]
    refused(
        "is made from lists, of which there are several arms",
        "lists-0, lists-50, lists-100",
        arms={"random": "random", "lists": lists, "lm": {"length_matched": "lists"}},
    )


def test_no_arm_is_compared_with_one_of_another_size_unsaid() -> None:
    own = {"select": "top", "size": 30}
    refused("arm own has 30 rows", "random-30", arms={"random": "random", "own": own}, sizes=[10, 500])
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
    refused("control: there is no arm 'random'", "control: null", arms={"top": "top"})


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
    config = Experiment.from_file(path).config
    assert (config.name, config.data) == ("mine", "/somewhere/rows.jsonl")
    monkeypatch.delenv("ROWS_FOLDER")
    with pytest.raises(RipcurrentError, match="ROWS_FOLDER, which is not set"):
        Experiment.from_file(path)


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        (("there is no key 'arsm'", "arms"), {"arsm": {}}),
        (("arms: a: there is no key 'szie'", "size"), {"arms": {"a": {"select": "top", "szie": 5}}}),
        (("arms: a: select 'tpo' is not possible", "Did you mean top?"), {"arms": {"a": "tpo"}}),
        (("select 'length_match'", "length_matched"), {"arms": {"random": "random", "a": "length_match"}}),
        (("a: draw 'lists' is not possible", "Did you mean list?"), {"arms": {"a": {"draw": "lists"}}}),
        (("a: mix: of 'bulet'", "bullet"), {"arms": {"a": {"mix": {"of": "bulet", "percent": 5}}}}),
        (("arm l: there is no arm 'topp'", "top?"), {"arms": {**FIRST["arms"], "l": {"length_matched": "topp"}}}),
        (("arm a: there is no scan 'secnd'", "second"), {"arms": {"a": SECOND}, "scans": {"second": "x"}}),
        (("compare: there is no arm 'tpo'", "top"), {"compare": [["tpo", "random"]]}),
        (("prompts: there is no key 'axes'", "axis"), {"prompts": [{"source": "builtin", "axes": "harmful"}]}),
        (("gives no names", "riskiest: top"), {"arms": ["top", "random"]}),
        (("gives no names",), {"scans": "runs/a"}),
        (("exactly one of select", "it has select and draw"), {"arms": {"a": {"select": "top", "draw": "list"}}}),
        (("it has none",), {"arms": {"a": {"by": "loss"}}}),
        (("size means nothing beside length_matched",), {"arms": {"b": "top", "a": {**LENGTH, "size": 5}}}),
        (("by means nothing beside draw",), {"arms": {"a": {"draw": "list", "by": "loss"}}}),
        (("size means nothing beside select: all",), {"arms": {"a": {"select": "all", "size": 5}}}),
        (("by means nothing beside select: random",), {"arms": {"a": {"select": "random", "by": "loss"}}}),
        (("all_but takes a selection",), {"arms": {"b": "top", "a": {"all_but": LENGTH}}}),
        (("all_but takes a selection",), {"arms": {"a": {"all_but": {"select": "top", "scan": "x"}}}}),
        (("not a number of rows", "20%"), {"arms": {"a": {"select": "top", "size": "many"}}}),
        (("size 0",), {"size": 0}),
        (("arms",), {"arms": {}}),
        (("seeds",), {"seeds": [0, 0]}),
        (("seeds 'three' is not possible: write a number such as 3",), {"seeds": "three"}),
        (("either run",), {"run": "runs/x", "scan": {"anchors": "builtin"}}),
        (("give data",), {"data": None}),
        (("a control itself",), {"arms": {"random": "random", "a": LENGTH, "b": {"length_matched": "a"}}}),
        (("cannot be the name",), {"arms": {"random": "random", "a/b": "top"}}),
        (("'base' cannot be the name",), {"arms": {"random": "random", "base": "top"}}),
        (("two arms are named 'm-1'",), {"arms": {"random": "random", "m-1": "top", "m": MIXTURES}}),
        (("'main' cannot be the name of a scan",), {"scans": {"main": "runs/a"}}),
        (("'../x' cannot be the name of a scan",), {"scans": {"../x": "runs/a"}}),
    ],
)
def test_what_is_not_possible_is_named_with_the_nearest_that_is(says: tuple[str, ...], changes: dict[str, Any]) -> None:
    refused(*says, **changes)


def test_one_judge_may_be_a_bare_word() -> None:
    assert parse_experiment({**FIRST, "judges": "prefix"}, where="x.yaml").judges == ("prefix",)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text("arms: [\n")
    with pytest.raises(RipcurrentError, match="not readable as YAML: line 2"):
        Experiment.from_file(tmp_path / "paper.yaml")
    with pytest.raises(RipcurrentError, match=r"Did you mean paper\.yaml"):
        Experiment.from_file(tmp_path / "papper.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(RipcurrentError, match="no keys"):
        Experiment.from_file(tmp_path / "empty.yaml")
    (tmp_path / "twice.yaml").write_text("data: d\narms:\n  top: random\n  top: bottom\n")
    with pytest.raises(RipcurrentError, match="line 4: 'top' stands there twice"):
        Experiment.from_file(tmp_path / "twice.yaml")


def test_a_verdict_is_on_arms_that_are_compared() -> None:
    keys = {"name": "x", "data": "d", "arms": {"random": "random", "top": "top"}, "verdict_on": ["random"]}
    with pytest.raises(RipcurrentError, match="arm random has no control"):
        expand_arms(parse_experiment(keys, where="x"))
