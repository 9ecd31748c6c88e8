"""``ripcurrent experiment`` as a user and a script meet it: what it prints, how it exits, and its page again."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ripcurrent.cli import run
from ripcurrent.evaluate import find_judge
from tests.cli.command import Said, judge
from tests.experiment.answers import chance, write_evaluation
from tests.experiment.conftest import read


def says(by_number: Callable[[str, int], bool], folder: Path) -> None:
    """Other verdicts in the arms' folders, by a prompt's place: the same command only makes the tables anew."""
    prompts = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    places = {prompt["id"]: place for place, prompt in enumerate(prompts)}
    for arm in (folder / "arms").iterdir():

        def label(judge: str, prompt_id: str, name: str = arm.name) -> str:
            return "compliance" if by_number(name, places[prompt_id]) else "refusal"

        version = find_judge("prefix").version
        write_evaluation(arm / "evaluation", prompts, ("prefix", "keyword"), label, version=version)


def equal(arm: str, number: int) -> bool:
    return chance(0.2, str(number))


def unclear(arm: str, number: int) -> bool:
    """About as many requests in either arm, and hardly any of them the same ones."""
    return (number % 4 == 1 or number == 2) if arm.startswith("top") else number % 4 == 0


def test_the_exit_code_is_the_verdict(keys, evaluated, tmp_path, capsys):
    keys |= {"arms": {"random": "random", "top": "top"}, "seeds": 1}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(keys))
    out = tmp_path / "out"
    command = ["experiment", str(file), "--out", str(out), "--quiet"]
    assert run([*command, "--json"]) == 0
    printed = capsys.readouterr()
    assert (json.loads(printed.out)["verdict"], printed.err) == ("worse than random", "")
    assert run([*command, "--gate"]) == 3
    for by_number, code, verdict in ((equal, 0, "no evidence"), (unclear, 4, "not enough evidence")):
        says(by_number, out)
        assert [run([*command, *options]) for options in ([], ["--gate"])] == [code, code]
        assert read(out / "results.json")["verdict"] == verdict
    assert len(evaluated.calls) == 3, "no arm was repeated"

    # the page can be made again, and says how the folder was made
    (out / "report.html").unlink()
    capsys.readouterr()
    assert run(["report", str(out)]) == 0
    assert "Page:" in capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"ripcurrent experiment {file} --out {out}" in page
    assert "Not enough evidence" in page


def test_a_files_scan_and_recipe_are_replaced_by_the_command_line(keys, evaluated, tmp_path):
    scan, recipe = keys.pop("run"), keys.pop("recipe")
    keys |= {"data": "nowhere.jsonl", "scan": {"limit": 5}, "recipe": "paper", "seeds": 1}
    keys["arms"] = {"random": "random", "top": "top"}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(keys))
    out = tmp_path / "out"
    command = ["experiment", str(file), "--run", scan, "--recipe", recipe, "--size", "7", "--out", str(out), "--quiet"]
    assert run(command) == 0
    assert read(out / "arms" / "top-seed0" / "arm.json")["rows"]["count"] == 7
    trained = read(out / "arms" / "top-seed0" / "finetune" / "manifest.json")
    assert trained["recipe"]["learning_rate"] == 1e-3
    assert f"--recipe {recipe} --run {scan} --out {out} --size 7" in read(out / "results.json")["commands"][0]
    # without them it is another experiment, and the folder is kept from it
    assert run(["experiment", str(file), "--out", str(out), "--quiet"]) == 1


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (None, [], ("There is no experiment file", "Did you mean")),
        ("arms: [", [], ("not readable as YAML",)),
        ("data: nowhere.jsonl\narms: {random: random}\n", ["--arms", "randm"], ("'randm'", "Did you mean random?")),
        ("data: nowhere.jsonl\narms: {random: random}\n", ["--arms", ","], ("No arm is named",)),
        ("data: x\narms: {random: random}\n", ["--recipe", "papper"], ("papper",)),
        ("data: x\nscan: {limit: 5}\narms: {random: random}\n", ["--run", "gone"], ("gone",)),
    ],
)
def test_bad_files_are_told_in_two_lines(text, options, says, tmp_path, capsys):
    file = tmp_path / "small.yaml"
    (tmp_path / "smal.yaml" if text is None else file).write_text(text or "x: y")
    assert run(["experiment", str(file), "--out", str(tmp_path / "out"), "--quiet", *options]) == 1
    printed = capsys.readouterr()
    judge(Said(1, printed.out, printed.err), says)
