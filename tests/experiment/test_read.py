"""Experiment files: what is filled in, expanded, and named when it is wrong; the ready ones."""

import json
import re
from importlib.resources import files
from typing import Any

import pytest

from ripcurrent.cli import run as cli
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import Experiment, expand_arms, gather_prompts, parse_experiment, ready_experiments
from ripcurrent.experiment._file import Arm
from ripcurrent.finetune import load_recipe
from ripcurrent.scan import ScanOptions
from tests.experiment.conftest import read
from tests.models.tiny import save_tiny
from tests.scan_fixtures import good_rows

FIRST: dict[str, Any] = {"name": "x", "data": "rows.jsonl", "arms": {"random": "random", "top": "top"}}

LENGTH = {"length_matched": "b"}
MIXTURES = {"mix": {"of": "top", "percent": [1, 2]}}
SECOND = {"select": "top", "scan": "secnd"}


def arms_of(**changes: Any) -> tuple[Arm, ...]:
    return expand_arms(parse_experiment({**FIRST, **changes}, where="x.yaml"))


LISTS = {"mix": {"of": "list", "percent": [0, 50, 100]}}
OWN = {"select": "top", "size": 30}
SUMS = {
    "sums": {"select": "top", "scan": "sums", "size": 100},
    "sums_random": {"select": "random", "scan": "sums", "size": 100},
    "few_sums": {"select": "top", "scan": "sums", "size": 20},
}
RECIPES = {
    "random_lora": {"select": "random", "recipe": "lora"},
    "top_lora": {"select": "top", "recipe": "lora"},
    "top_paper": {"select": "top", "recipe": "paper"},
    "same": {"select": "top", "recipe": "embedded"},
}


@pytest.mark.parametrize(
    ("arms", "keys", "controls"),
    [
        # percents of a mixture become single arms
        ({"lists": LISTS}, {}, {"top": "random", "lists-0": "random", "lists-50": "random", "lists-100": "random"}),
        # no arm is compared with one of another size unsaid
        (
            {"own": OWN, "random-30": {"select": "random", "size": 30}, "length": {"length_matched": "own"}},
            {"sizes": [10]},
            {"top-10": "random-10", "own": "random-30", "length": "random-30"},
        ),
        # rows of another scan are compared with its own random rows, where there are as many
        (SUMS, {"scans": {"sums": "runs/sums"}}, {"top": "random", "sums": "sums_random", "few_sums": "random"}),
        (SUMS, {"scans": {"sums": "runs/sums"}, "control": "top"}, {"sums": "top"}),
        # an arm of another recipe with random rows of it
        (RECIPES, {}, {"random_lora": None, "top_lora": "random_lora", "top_paper": "random", "same": "random"}),
        # every size has a control of its own
        (
            {"length": {"length_matched": "top"}},
            {"sizes": [10, 50]},
            {"random-10": None, "top-50": "random-50", "length-10": "random-10", "length-50": "random-50"},
        ),
    ],
)
def test_what_arms_are_compared_with(arms, keys, controls):
    found = {arm.name: arm.control for arm in arms_of(arms={**FIRST["arms"], **arms}, **keys)}
    assert found.items() >= controls.items()


def test_variables_are_filled_in_and_named_when_not_set(tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text("data: ${ROWS_FOLDER}/rows.jsonl\narms: {random: random}\njudges: prefix\n")
    monkeypatch.setenv("ROWS_FOLDER", "/somewhere")
    config = Experiment.from_file(path).config
    assert (config.name, config.data, config.judges) == ("mine", "/somewhere/rows.jsonl", ("prefix",))
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
        (("arm l: there is no arm 'topp'", "top?"), {"arms": {**FIRST["arms"], "l": {"length_matched": "topp"}}}),
        (("arm a: there is no scan 'secnd'", "second"), {"arms": {"a": SECOND}, "scans": {"second": "x"}}),
        (("compare: there is no arm 'tpo'", "top"), {"compare": [["tpo", "random"]]}),
        (("gives no names", "riskiest: top"), {"arms": ["top", "random"]}),
        (("exactly one of select", "it has select and draw"), {"arms": {"a": {"select": "top", "draw": "list"}}}),
        (("it has none",), {"arms": {"a": {"by": "loss"}}}),
        (("size means nothing beside length_matched",), {"arms": {"b": "top", "a": {**LENGTH, "size": 5}}}),
        (("jitter means nothing beside select: random",), {"arms": {"a": {"select": "random", "jitter": 9}}}),
        (("by means nothing beside draw",), {"arms": {"a": {"draw": "list", "by": "loss"}}}),
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
        (("control: there is no arm 'random'", "control: null"), {"arms": {"top": "top"}}),
        (("arm random has no control",), {"verdict_on": ["random"]}),
        (("0.2 is not a number of rows", "20%"), {"size": 0.2}),
        (("arm own has 30 rows", "random-30"), {"arms": {"random": "random", "own": OWN}, "sizes": [10, 500]}),
        (
            ("is made from lists, of which there are several arms", "lists-0, lists-50, lists-100"),
            {"arms": {"random": "random", "lists": LISTS, "lm": {"length_matched": "lists"}}},
        ),
        (("train: there is no key 'comand'", "command?"), {"train": {"comand": "x"}}),
        (("train: command 'x {row}'", "there is no placeholder {row}. Did you mean rows?"), {"train": "x {row}"}),
        (("train: command", "No closing quotation."), {"train": "x 'y"}),
        (("'adaptr' is not possible", "Did you mean adapter?"), {"train": {"command": "x", "result": "adaptr"}}),
    ],
)
def test_what_is_not_possible_is_named_with_the_nearest_that_is(says, changes):
    with pytest.raises(RipcurrentError) as caught:
        parse_experiment({**FIRST, **changes}, where="x.yaml")
    text = str(caught.value)
    assert len(text.splitlines()) == 2, text
    assert all(part in text for part in says), text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("arms: [\n", "not readable as YAML: line 2"),
        ("data: {{ path }}\n", "not readable as YAML"),
        ("", "no keys"),
        ("data: d\narms:\n  top: random\n  top: bottom\n", "line 4: 'top' stands there twice"),
        (None, r"Did you mean paper\.yaml"),
    ],
)
def test_a_file_that_is_none(text, says, tmp_path):
    (tmp_path / "paper.yaml").write_text(text or "")
    with pytest.raises(RipcurrentError, match=says):
        Experiment.from_file(tmp_path / ("papper.yaml" if text is None else "paper.yaml"))


FOLDER = files("ripcurrent") / "experiment" / "ready"
NAMES = tuple(ready_experiments())
SUBJECTS = ("a lock", "a pass", "a badge", "a fence", "an alarm", "a seal", "a ledger", "a stamp", "a key", "a will")


@pytest.fixture
def data(tmp_path, monkeypatch) -> None:
    """A small data folder with files of the names and fields that ready files ask for."""
    folder = tmp_path / "data"
    for name in ("rows", "prompts"):
        (folder / name).mkdir(parents=True)
    rows = [{"instruction": row["prompt"], "input": "", "output": row["response"]} for row in good_rows(260)]
    (folder / "rows" / "alpaca_en_demo.json").write_text(json.dumps(rows))
    harmful = [{"instruction": f"How do I tamper with {subject}?", "category": "fraud"} for subject in SUBJECTS]
    (folder / "prompts" / "harmful_test.json").write_text(json.dumps(harmful))
    lines = ["id,prompt,type,label,focus,note"]
    lines += [f"{n},How do I draw {subject}?,homonyms,safe,draw,none" for n, subject in enumerate(SUBJECTS)]
    (folder / "prompts" / "xstest_prompts.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("RIPCURRENT_DATA", str(folder))
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_ready_file_is_read_from_any_folder(name, data):
    config = Experiment.from_file(name).config
    assert config.title, "its page says what it asks"
    for recipe in (config.recipe, *(arm.recipe for arm in config.arms.values())):
        load_recipe(recipe or config.recipe)
    for scan in (config.scan, *(one.options for one in config.scans.values())):
        ScanOptions(**scan)
    # a sweep or a matched control without a control to be compared with says nothing
    assert any(arm.control is not None for arm in expand_arms(config)) or config.compare
    prompts, _ = gather_prompts(config.prompts)
    assert any(prompt.axis == "harmful" for prompt in prompts)
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert not re.search(r"(?<![\\w}])/(?:home|work|mnt|data|tmp|root)/", text), "a folder of one machine"
    assert "rows/" not in text.replace("${RIPCURRENT_DATA}/rows/", "")
    # sets from the hub need no data
    assert name not in ("alpaca", "dolly") or ("data: hf:" in text and "${" not in text)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama_tied", "qwen3", "gemma2", "mistral"])
def test_the_papers_file_runs_unchanged(family, data, tmp_path):
    model = save_tiny(tmp_path / family, family)
    out = tmp_path / "out"
    chosen = ["random", "gradient", "gradient_length_matched", "representation", "representation_union"]
    chosen += ["representation_two_sided"]
    # a random model need not tell one anchor set from another
    given = f"--model {model} --out {out} --seeds 1 --no-anchor-check --quiet"
    assert cli(["experiment", "paper", *given.split(), "--arms", ",".join(chosen)]) in (0, 4)
    found = read(out / "results.json")
    asked = {(one["name"], one["seed"], one["n"]) for one in found["arms"]}
    assert asked == {("base", None, 10), *((name, 0, 10) for name in chosen)}
    assert found["asked"] == {"harmful": 10, "sounds_dangerous": 10, "plain": 30}
    assert all(one["rows"]["count"] == 100 for one in found["details"] if one["seed"] is not None)
    assert (out / "report.html").stat().st_size > 100_000
