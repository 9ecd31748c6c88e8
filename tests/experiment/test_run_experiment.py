"""Whole experiments on a tiny model, its answers made up, from Python and as a command."""

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from ripcurrent.cli import run as cli
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import ExperimentResults
from ripcurrent.forecast import calibrate
from ripcurrent.runs import read_json_lines
from tests.cli.command import Said, judge
from tests.experiment.answers import FakeEvaluate, as_named, chance, write_evaluation
from tests.experiment.conftest import read, run, small_keys, write_prompts


@pytest.fixture(scope="module")
def whole(scanned, tiny_folder, tmp_path_factory) -> ExperimentResults:
    """The experiment of the keys."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("ripcurrent.evaluate"), "evaluate", FakeEvaluate())
        return run(small_keys(scanned, write_prompts(folder), tiny_folder, folder), folder / "out")


@pytest.fixture
def pair(whole, tmp_path) -> Path:
    """A folder in which arms ``random`` and ``top`` are finished with one seed."""
    out = shutil.copytree(whole.folder, tmp_path / "out")
    for arm in (out / "arms").iterdir():
        if arm.name not in ("base", "random-seed0", "top-seed0"):
            shutil.rmtree(arm)
    return out


def test_arms_are_trained_asked_and_compared(keys, whole):
    runs = {f"{arm}-seed{seed}" for arm in keys["arms"] for seed in (0, 1)}
    assert {path.name for path in (whole.folder / "arms").iterdir()} == {"base", *runs}
    findings = {one.arm: one.finding for one in whole.comparisons if one.judge == "prefix"}
    assert set(findings) == {"top", "bottom", "length"}
    assert findings["top"] == whole.verdict == "worse than random" != findings["bottom"]
    matched = [(one.arm, one.control) for one in whole.further_comparisons if one.judge == "prefix"]
    assert matched == [("top", "length")]
    assert whole.complete
    assert any(one.startswith("Runs of top, bottom train on the same rows and") for one in whole.notes)
    # the models are gone, what they were trained on is kept
    assert not list((whole.folder / "arms").glob("*/finetune/model"))
    marker = read(whole.folder / "arms" / "top-seed1" / "arm.json")
    assert (marker["status"], marker["rows"]["count"]) == ("finished", 8)
    assert marker["heldout_loss"] > 0


def test_a_calibration_is_made_of_what_an_experiment_leaves(keys, whole, evaluated, tmp_path):
    out = shutil.copytree(whole.folder, tmp_path / "out")
    upper_arm = {"upper": {"mix": {"of": "top", "percent": 75}, "size": 12}}
    run({**keys, "arms": keys["arms"] | upper_arm}, out, arms=["upper"], seeds=1)
    made, fitted = calibrate([out], tmp_path / "calibration.json")
    assert made.left_out == ()
    assert {(one.run.arm, one.run.seed, one.run.rows) for one in fitted} == {
        *((arm, seed, 8) for arm in keys["arms"] for seed in (0, 1)),
        ("upper", 0, 12),
    }
    upper = next(one.run for one in fitted if one.run.arm == "upper")
    mean = read(out / "arms" / "upper-seed0" / "arm.json")["rows"]["mean_scores"]["gradient_balanced"]
    (coherence,) = read(out / "arms" / "upper-seed0" / "coherence.json").values()
    assert upper.cosine == pytest.approx(mean / (coherence + (1 - coherence) / 12) ** 0.5)
    assert made.recipe.steps == 1


def test_a_finished_arm_is_never_repeated(keys, evaluated, whole, tmp_path):
    out = shutil.copytree(whole.folder, tmp_path / "out")
    for name in ("top-seed0", "bottom-seed0", "length-seed1"):
        shutil.rmtree(out / "arms" / name)

    def killed(judge: str, arm: str, prompt_id: str) -> str:
        if arm == "bottom-seed0":
            raise KeyboardInterrupt
        return as_named(judge, arm, prompt_id)

    evaluated.says = killed
    with pytest.raises(KeyboardInterrupt):
        run(keys, out)
    assert (out / "arms" / "top-seed0" / "arm.json").exists()
    assert not (out / "arms" / "bottom-seed0" / "arm.json").exists()
    evaluated.says = as_named
    evaluated.calls.clear()
    again = run(keys, out)
    assert [call["arm"] for call in evaluated.calls] == ["bottom-seed0", "length-seed1"]
    assert again.arms == whole.arms
    assert again.comparisons == whole.comparisons


def test_more_seeds_and_arms_are_added_to_a_folder(keys, evaluated, pair):
    keys["arms"] = {"random": "random", "top": "top", "lists": {"draw": "list"}}
    found = run(keys, pair, seeds=1)
    assert [call["arm"] for call in evaluated.calls] == ["lists-seed0"]
    assert found.complete
    evaluated.calls.clear()
    found = run(keys, pair, seeds=2, arms=["top"])
    assert [call["arm"] for call in evaluated.calls] == ["top-seed1"]
    assert [(one.name, one.seed) for one in found.missing] == [("random", 1), ("lists", 1)]


def test_another_version_of_a_judge_judges_every_arm_again(keys, evaluated, pair, monkeypatch):
    prompts, judged = read_json_lines(pair / "prompts.jsonl"), []

    def again(place: Path, judges: Any, progress: Any) -> None:
        judged.append((place.parent.name, [judge.name for judge in judges]))

    monkeypatch.setattr(import_module("ripcurrent.experiment._runner"), "judge_again", again)
    arms = ("base", "random-seed0", "top-seed0")
    for arm in arms:
        write_evaluation(pair / "arms" / arm / "evaluation", prompts, ("prefix",), lambda *_: "refusal", version="0.9")
    run({**keys, "judges": ["prefix"], "seeds": [0], "arms": {"random": "random", "top": "top"}}, pair)
    assert evaluated.calls == []
    assert judged == [(arm, ["prefix"]) for arm in arms]


def test_a_diverging_arm_fails_alone(keys, evaluated, pair, tmp_path):
    (tmp_path / "wild.yaml").write_text("method: full\nlearning_rate: 9.0\nbatch: 4\nsteps: 12\n")
    wild = {"select": "top", "recipe": str(tmp_path / "wild.yaml")}
    keys |= {"arms": {"random": "random", "wild": wild, "top": "top"}, "seeds": [0]}
    shutil.rmtree(pair / "arms" / "top-seed0")
    found = run(keys, pair)
    assert [call["arm"] for call in evaluated.calls] == ["top-seed0"]
    (failed,) = found.failed
    assert (failed.name, "diverges" in str(failed.reason)) == ("wild", True)
    assert {one.arm for one in found.comparisons} == {"top"}
    assert not list((pair / "arms" / "wild-seed0" / "finetune").glob("model*"))
    evaluated.calls.clear()
    run(keys, pair)
    assert evaluated.calls == []


@pytest.mark.parametrize("changed", ["rule", "size", "recipe"])
def test_runs_of_an_arm_by_another_rule_are_not_put_together_with_new_ones(changed, keys, evaluated, pair, tmp_path):
    """Whether these seeds, or this arm, are asked for now or not."""
    keys |= {"arms": {"random": "random", "top": "top"}, "seeds": [0]}
    assert run(keys, pair).complete
    other = tmp_path / "other.yaml"
    other.write_text("method: full\nlearning_rate: 1.0e-4\nbatch: 4\nsteps: 1\n")
    top = {"rule": {"by": "gradient_harmful"}, "size": {"size": 6}, "recipe": {"recipe": str(other)}}[changed]
    keys["arms"]["top"] = {"select": "top", **top}
    for how in ({}, {"seeds": [3]}, {"arms": ["random"], "seeds": [4]}):
        with pytest.raises(RipcurrentError, match=r"holds arm top with (other rows|another recipe) than now"):
            run(keys, pair, **how)


def test_no_evidence_is_no_failure_and_the_page_can_be_made_again(keys, evaluated, tmp_path, capsys):
    keys |= {"arms": {"random": "random", "top": "top"}, "seeds": 1}
    evaluated.says = lambda judge, arm, n: "compliance" if chance(0.05 if arm == "base" else 0.2, n) else "refusal"
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(keys))
    command = ["experiment", str(file), "--out", str(out)]
    assert cli(command) == 4, "one run is no verdict"
    first, *_, last = (line for line in capsys.readouterr().out.splitlines() if line.startswith(("Harmful", "Verdict")))
    assert first.startswith("Harmful requests answered: untrained 6.2 % → random 20.0 % → top")
    assert "add --seeds 3" in last
    assert cli([*command, "--quiet", "--seeds", "3"]) == 0
    assert read(out / "results.json")["verdict"] == "no evidence"
    (out / "report.html").unlink()
    assert cli(["report", str(out)]) == 0
    assert "Page:" in capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"ripcurrent experiment {file} --out {out}" in page
    assert page.index("Harmful requests answered: untrained") < page.index("No evidence")


def test_a_files_scan_and_recipe_are_replaced_by_the_command_line(keys, evaluated, tmp_path):
    scan, recipe = keys.pop("run"), keys.pop("recipe")
    keys |= {"data": "nowhere.jsonl", "scan": {"limit": 5}, "recipe": "paper", "seeds": 1}
    keys["arms"] = {"random": "random", "top": "top"}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(keys))
    out = tmp_path / "out"
    command = ["experiment", str(file), "--run", scan, "--recipe", recipe, "--size", "7", "--out", str(out), "--quiet"]
    assert cli(command) == 4
    assert read(out / "arms" / "top-seed0" / "arm.json")["rows"]["count"] == 7
    trained = read(out / "arms" / "top-seed0" / "finetune" / "manifest.json")
    assert trained["recipe"]["learning_rate"] == 1e-3
    assert f"--recipe {recipe} --run {scan} --out {out} --size 7" in read(out / "results.json")["commands"][0]
    # without them it is another experiment, and the folder is kept from it
    assert cli(["experiment", str(file), "--out", str(out), "--quiet"]) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--arms", "randm"], ("'randm'", "Did you mean random?")),
        (["--arms", ","], ("No arm is named",)),
        (["--recipe", "papper"], ("papper",)),
        (["--run", "gone"], ("gone",)),
    ],
)
def test_bad_options_are_told_in_two_lines(options, says, tmp_path, capsys):
    file = tmp_path / "small.yaml"
    file.write_text("data: nowhere.jsonl\narms: {random: random}\n")
    assert cli(["experiment", str(file), "--out", str(tmp_path / "out"), "--quiet", *options]) == 1
    printed = capsys.readouterr()
    judge(Said(1, printed.out, printed.err), says)
