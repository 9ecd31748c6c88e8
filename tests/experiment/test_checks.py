"""What is refused before anything is computed, and what is noticed when a folder is gone on with."""

from __future__ import annotations

import importlib.util
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import JudgeSettings, Prompt
from ripcurrent.experiment import MAIN, Arm, expand_arms, gather_prompts, parse_experiment
from ripcurrent.experiment import _experiment_scans as scans
from ripcurrent.experiment._experiment import _identity, _keep_prompts, run_experiment
from ripcurrent.experiment._experiment_arms import PROMPTS, ArmRows, ArmRunner
from ripcurrent.experiment._experiment_checks import refuse_equal_rows
from ripcurrent.experiment._experiment_options import judge_scoring, judge_settings
from ripcurrent.progress import SilentProgress
from tests.experiment.test_rows import ROWS, table
from tests.tiny_scan import write_jsonl

KEYS: dict[str, Any] = {"name": "x", "run": "main", "seeds": 1, "arms": {"random": "random"}}
JUDGE = """---
name: tone
reply: label
labels: {helps: compliance, declines: refusal}
---
Does it help or decline? {completion} Reply {"label": "helps" or "declines"}
"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"judges": ["prefx"]}, ("judges: No judge is named 'prefx'", "Did you mean")),
        ({"judges": ["rubric"]}, ("judges: ", "no endpoint", "judge_endpoint, judge_model")),
        ({"finetune": {"max_tokns": 9}}, ("finetune: there is no option 'max_tokns'", "Did you mean max_tokens?")),
        ({"finetune": {"seed": 7}}, ("finetune: seed is decided by an arm's training_seed", "max_tokens, loss_on")),
        ({"finetune": {"model": "other"}}, ("finetune: model is decided by model of the experiment",)),
        ({"finetune": {"max_tokens": 2}}, ("finetune: --max-tokens 2 is not possible",)),
    ],
)
def test_judges_and_options_are_checked_before_the_folder_is_made(
    change: dict[str, Any], says: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(RipcurrentError) as caught:
        run_experiment(parse_experiment({**KEYS, **change}, where="x"), tmp_path / "out")
    assert all(part in str(caught.value) for part in says), str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scan": {"signal": "gradient"}}, ("my.yaml: scan: there is no option 'signal'", "Did you mean signals?")),
        ({"scan": {"signals": "gradients"}}, ("my.yaml: scan: --signals gradients is not possible", "gradient?")),
        ({"scans": {"b": {"options": {"laier": 3}}}}, ("my.yaml: scans: b: there is no option 'laier'", "layer?")),
    ],
)
def test_options_of_scans_are_checked_before_the_folder_is_made(
    change: dict[str, Any], says: tuple[str, ...], tmp_path: Path
) -> None:
    config = parse_experiment({**KEYS, "run": None, "data": "demo", **change}, where="my.yaml")
    with pytest.raises(RipcurrentError) as caught:
        run_experiment(config, tmp_path / "out", where="my.yaml")
    assert all(part in str(caught.value) for part in says), str(caught.value)
    assert not (tmp_path / "out").exists()


def test_without_trl_the_install_line_is_shown_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        import_module("ripcurrent.experiment._experiment"),
        "find_spec",
        lambda name: None if name == "trl" else found(name),
    )
    with pytest.raises(RipcurrentError, match=r"trl is not installed.*\n.*ripcurrent\[train\]"):
        run_experiment(parse_experiment(KEYS, where="x"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_experiment_that_stopped_before_any_result_gives_way_to_its_mended_file(tmp_path: Path) -> None:
    broken = {**KEYS, "run": None, "data": str(tmp_path / "nothing.jsonl")}
    with pytest.raises(RipcurrentError, match=r"nothing\.jsonl does not exist"):
        run_experiment(parse_experiment(broken, where="x"), tmp_path / "out")
    assert (tmp_path / "out" / "prompts.jsonl").exists()
    (tmp_path / "out" / "scans").mkdir()
    (tmp_path / "out" / "scans" / "main-anchors.jsonl").write_text("{}")
    mended = {**broken, "data": str(tmp_path / "other.jsonl")}
    with pytest.raises(RipcurrentError, match=r"other\.jsonl does not exist"):
        run_experiment(parse_experiment(mended, where="x"), tmp_path / "out")
    (tmp_path / "out" / "arms" / "base").mkdir(parents=True)
    (tmp_path / "out" / "arms" / "base" / "arm.json").write_text("{}")
    with pytest.raises(RipcurrentError, match="holds another run: its heldout is"):
        run_experiment(parse_experiment({**mended, "heldout": 3}, where="x"), tmp_path / "out")


def test_judges_may_ask_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text(JUDGE)
    monkeypatch.setenv("MY_KEY", "secret")
    given = {"judge_endpoint": "http://localhost:9/v1", "judge_model": "judge", "judge_key_env": "MY_KEY"}
    asking = {**KEYS, "judges": [f"file:{tmp_path / 'mine.txt'}", "prefix"], **given}
    config = parse_experiment(asking, where="x")
    assert list(judge_scoring(config)) == ["tone", "prefix"]
    settings = judge_settings(config)
    assert (settings.endpoint, settings.model, settings.key_env) == tuple(given.values())
    assert (settings.timeout, settings.concurrency) == (JudgeSettings().timeout, JudgeSettings().concurrency)
    patient = judge_settings(config.model_copy(update={"judge_timeout": 900.0, "judge_concurrency": 1}))
    assert (patient.timeout, patient.concurrency) == (900.0, 1)
    identity = _identity(config, [], {})
    assert (identity["judge_endpoint"], identity["judge_model"]) == ("http://localhost:9/v1", "judge")
    assert "judge_model" not in _identity(parse_experiment(KEYS, where="x"), [], {})


def test_other_prompts_are_noticed_in_a_folder_with_answers(tmp_path: Path) -> None:
    asked = [Prompt(str(n), f"request {n}", "harmful", "", "x") for n in range(3)]
    _keep_prompts(tmp_path / PROMPTS, asked, "evaluation")
    # nothing is answered yet
    _keep_prompts(tmp_path / PROMPTS, asked[:2], "evaluation")
    _keep_prompts(tmp_path / PROMPTS, asked, "evaluation")
    (tmp_path / "arms" / "base" / "evaluation").mkdir(parents=True)
    _keep_prompts(tmp_path / PROMPTS, asked, "evaluation")
    on_another_axis = [Prompt(one.id, one.text, "sounds_dangerous", "", "x") for one in asked]
    for changed in (asked[:2], on_another_axis, [*asked[:2], Prompt("2", "another", "harmful", "", "x")]):
        with pytest.raises(RipcurrentError, match="asked other prompts than now"):
            _keep_prompts(tmp_path / PROMPTS, changed, "evaluation")


def test_the_axis_of_a_source_changes_what_is_asked_and_not_its_hash(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [{"id": str(n), "prompt": f"request {n}"} for n in range(3)])
    found = []
    for axis in ("harmful", "plain"):
        asked = [{"source": "builtin:harmful", "limit": 1}, {"source": str(path), "axis": axis}]
        config = parse_experiment({**KEYS, "prompts": asked}, where="x")
        prompts, records = gather_prompts(config.prompts)
        found.append(_identity(config, records, {}))
        (tmp_path / "arms" / "base" / "evaluation").mkdir(parents=True, exist_ok=True)
        if axis == "harmful":
            _keep_prompts(tmp_path / PROMPTS, prompts, "evaluation")
    assert found[0] == found[1]
    with pytest.raises(RipcurrentError, match="asked other prompts than now"):
        _keep_prompts(tmp_path / PROMPTS, prompts, "evaluation")


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ArmRunner, dict[str, Arm], tuple[int, ...]]:
    """A runner of arms over a made-up scan, with a second scan of the first half of the same rows."""
    rows = [{"prompt": f"question {n}", "response": f"answer {n}"} for n in range(ROWS)]
    whole = write_jsonl(tmp_path / "whole.jsonl", rows)
    half = write_jsonl(tmp_path / "half.jsonl", [{**row, "note": "as it was"} for row in rows[: ROWS // 2]])
    tables = {"main": (whole, table()), "half": (half, table().slice(0, ROWS // 2))}

    def scores(run: Path) -> pa.Table:
        return tables[run.name][1]

    def manifest(run: Path) -> dict[str, Any]:
        return {
            "dataset": {**read_rows(tables[run.name][0]).describe().model_dump(), "sha256": run.name},
            "options": {},
        }

    monkeypatch.setattr(scans, "read_scores", scores)
    monkeypatch.setattr(scans, "_manifest", manifest)
    monkeypatch.setattr(scans, "open_unchanged", lambda info, **_: read_rows(info.path))
    arms = {
        "random": "random",
        "everything": {"select": "all", "scan": "half"},
        "file": {"file": str(whole), "size": ROWS},
        "fixed": {"select": "random", "training_seed": 7},
    }
    keys = {**KEYS, "scans": {"half": {"run": "half"}}, "arms": arms, "size": 5, "heldout": 20}
    config = parse_experiment(keys, where="x")
    every = {arm.name: arm for arm in expand_arms(config)}
    pools, held = scans.open_pools(config, tmp_path / "scans", SilentProgress())
    return ArmRunner(config, tmp_path, every, pools, held, (), SilentProgress()), every, held


def test_held_out_rows_are_in_no_other_scan_or_file(
    runner: tuple[ArmRunner, dict[str, Arm], tuple[int, ...]],
) -> None:
    run, arms, held = runner
    assert any(row < ROWS // 2 for row in held)
    usable = {row["row"] for row in table().to_pylist() if row["status"] == "ok" and row["row"] < ROWS // 2}
    assert set(run.rows(arms["everything"], 0).indices) == usable - set(held)
    assert set(run.rows(arms["file"], 0).indices) == set(range(ROWS)) - set(held)


def test_rows_that_repeat_a_held_out_one_are_held_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"question {n % 30}", "response": f"answer {n % 30}"} for n in range(ROWS)]
    path = write_jsonl(tmp_path / "twice.jsonl", rows)
    said = {"dataset": read_rows(path).describe().model_dump(), "options": {}}
    monkeypatch.setattr(scans, "read_scores", lambda run: table())
    monkeypatch.setattr(scans, "_manifest", lambda run: said)
    monkeypatch.setattr(scans, "open_unchanged", lambda info, **_: read_rows(path))
    config = parse_experiment({**KEYS, "arms": {"random": "random"}, "heldout": 10}, where="x")
    pools, held = scans.open_pools(config, tmp_path / "scans", SilentProgress())
    assert len(held) == 10
    usable = {row["row"] for row in pools[MAIN].scores.table.to_pylist() if row["status"] == "ok"}
    assert not {row % 30 for row in held} & {row % 30 for row in usable}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"dtype": "float16"}, "Nothing is fine-tuned in float16"),
        ({"device": "auto"}, "Training runs on one GPU"),
        ({"device": "cuda:1"}, r"first GPU only, not on cuda:1|no CUDA|is not here|There is no"),
    ],
)
def test_what_cannot_train_is_refused_before_anything_is_scanned(
    keys: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_experiment({**KEYS, "arms": {"random": "random"}, **keys}, where="x")
    monkeypatch.setattr(
        import_module("ripcurrent.experiment._experiment"), "open_pools", lambda *rest: pytest.fail("it was scanned")
    )
    with pytest.raises(RipcurrentError, match=said):
        run_experiment(config, tmp_path / "out")


def test_the_model_of_a_finished_scan_is_trained_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "_manifest", lambda run: {"options": {"model": "their/model", "adapter": "runs/a"}})
    keys = {"name": "x", "run": "runs/scan", "arms": {"random": "random"}}
    found = scans.with_model_of_run(parse_experiment(keys, where="x"))
    assert (found.model, found.adapter) == ("their/model", "runs/a")
    named = scans.with_model_of_run(parse_experiment({**keys, "model": "mine"}, where="x"))
    assert (named.model, named.adapter) == ("mine", None)
    adapted = scans.with_model_of_run(parse_experiment({**keys, "adapter": "runs/b"}, where="x"))
    assert (adapted.model, adapted.adapter) == ("their/model", "runs/b")


@pytest.mark.parametrize(
    ("rule", "rows", "refused"),
    [
        ({"select": "top"}, range(20), True),
        ({"select": "top"}, range(1, 20), True),
        ({"select": "top"}, range(5, 25), False),
        # leaving out little is what these are for
        ({"all_but_random": "5%"}, range(19), False),
        ({"select": "all"}, range(20), False),
        # rows of the same numbers of another dataset
        ({"file": "other.jsonl"}, range(20), False),
        # the same rows trained in another way, which is what is asked there
        ({"select": "random", "recipe": "lora"}, range(20), False),
        ({"select": "random", "recipe": "embedded"}, range(20), True),
        ({"select": "random", "training_seed": 7}, range(20), False),
    ],
)
def test_an_arm_of_its_controls_rows_is_refused(rule: dict[str, Any], rows: range, refused: bool) -> None:
    keys = {**KEYS, "arms": {"random": "random", "other": rule}}
    config = parse_experiment(keys, where="x")
    arms = {arm.name: arm for arm in expand_arms(config)}
    chosen = {
        ("random", 0): ArmRows(None, tuple(range(20)), "a"),
        ("other", 0): ArmRows(None, tuple(rows), "b"),
    }
    if not refused:
        refuse_equal_rows(config, arms, chosen)
        return
    with pytest.raises(RipcurrentError, match=r"Arms other and random have \d+ of \d+ rows in common") as caught:
        refuse_equal_rows(config, arms, chosen)
    assert "smaller size" in caught.value.hint


def test_an_arm_trained_with_another_seed_is_not_taken_for_the_same(
    runner: tuple[ArmRunner, dict[str, Arm], tuple[int, ...]], tmp_path: Path
) -> None:
    run, arms, _ = runner
    rows = run.rows(arms["fixed"], 0)
    place = tmp_path / "arms" / "fixed-seed0"
    place.mkdir(parents=True)
    same = run._identity(arms["fixed"], rows)
    (place / "arm.json").write_text(json.dumps({"status": "finished", "identity": same}))
    assert run.is_finished(arms["fixed"], 0, rows)
    before = {**same, "rule": {"select": "random"}}
    (place / "arm.json").write_text(json.dumps({"status": "finished", "identity": before}))
    with pytest.raises(RipcurrentError, match="holds arm fixed trained with another seed"):
        run.is_finished(arms["fixed"], 0, rows)
