"""What an experiment's folder takes for the same thing in another place, and for another thing in the same place."""

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.data import read_rows
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.runs import write_json
from tests.evaluate.scripted_server import Answered, completion, error, serve
from tests.experiment.answers import FakeEvaluate
from tests.experiment.conftest import read, run
from tests.models.tiny import save_tiny
from tests.tiny_scan import write_jsonl


@pytest.fixture
def small(keys: dict[str, Any], evaluated: FakeEvaluate) -> dict[str, Any]:
    """An experiment of one arm and seed."""
    return {**keys, "arms": {"random": "random"}, "seeds": [0]}


def reversed_scan(keys: dict[str, Any], tmp_path: Path, *, scanned_anew: bool) -> Path:
    """The experiment's scan with its rows the other way round; ``scanned_anew`` it knows of that."""
    other = tmp_path / "other"
    shutil.copytree(keys["run"], other)
    manifest = read(other / "manifest.json")
    rows = Path(manifest["dataset"]["path"]).read_text().splitlines()
    changed = write_jsonl(tmp_path / "changed.jsonl", [json.loads(line) for line in reversed(rows)])
    manifest["dataset"]["path"] = str(changed)
    if scanned_anew:
        manifest["dataset"]["sha256"] = read_rows(changed).count_and_hash()[1]
    write_json(other / "manifest.json", manifest)
    return other


def trained(out: Path) -> int:
    return sum(1 for _ in out.glob("arms/*/finetune/manifest.json"))


def test_finished_arms_stay_when_scan_and_rows_have_moved(small: dict[str, Any], tmp_path: Path) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"
    run(small, out)
    before = read(out / "arms" / "random-seed0" / "arm.json")
    shutil.copytree(small["run"], moved)
    manifest = read(moved / "manifest.json")
    rows = shutil.copyfile(manifest["dataset"]["path"], tmp_path / "rows.jsonl")
    manifest["dataset"]["path"] = str(tmp_path / "gone.jsonl")
    write_json(moved / "manifest.json", manifest)
    with pytest.raises(RipcurrentError, match=r"gone\.jsonl") as caught:
        run({**small, "run": str(moved)}, out)
    assert "data, beside run" in caught.value.hint
    assert run({**small, "run": str(moved), "data": str(rows)}, out).complete
    assert read(out / "arms" / "random-seed0" / "arm.json") == before


def test_another_scan_in_its_place_chooses_other_rows_and_is_refused(small: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(small, out)
    other = reversed_scan(small, tmp_path, scanned_anew=False)
    with pytest.raises(RipcurrentError, match="has changed since it was scanned"):
        run({**small, "run": str(other)}, out)


def test_arms_of_two_datasets_do_not_meet_in_one_folder(small: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(small, out)
    other = reversed_scan(small, tmp_path, scanned_anew=True)
    keys = {**small, "run": str(other), "arms": {"random": "random", "top": "top"}}
    # also where the arm that is there is not asked for now
    for named in (None, ["top"]):
        with pytest.raises(RipcurrentError, match="holds arm random with other rows than now"):
            run(keys, out, arms=named)
    assert trained(out) == 1
    # and what reads the folder later is not told that its arms are of the other scan
    assert read(out / "experiment.json")["run"] == small["run"]


def test_a_model_that_changed_since_it_was_scanned_with_is_refused(small: dict[str, Any], tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "mine", "llama_tied", seed=3)
    scan = tmp_path / "scan"
    shutil.copytree(small["run"], scan)
    manifest = read(scan / "manifest.json")
    manifest["model"]["name"] = manifest["options"]["model"] = str(model)
    write_json(scan / "manifest.json", manifest)
    keys = {**small, "run": str(scan), "model": str(model)}
    with pytest.raises(RipcurrentError, match=r"has changed since .* was made with it"):
        run(keys, tmp_path / "out")
    assert not (tmp_path / "out" / "arms" / "random-seed0" / "arm.json").exists()
    # rows chosen with one model may be held against another one
    assert run({**keys, "model": small["model"]}, tmp_path / "other").complete


def test_arms_of_other_weights_than_those_asked_before_are_refused(small: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    base = out / "arms" / "base" / "evaluation"
    run({**small, "arms": {"random": "random"}}, out)
    shutil.rmtree(out / "arms" / "random-seed0")
    write_json(base / "manifest.json", {"model": {"fingerprint": "another"}})
    with pytest.raises(RipcurrentError, match="has changed since base was made from it"):
        run(small, out)
    assert not trained(out)


def test_an_arm_stopped_before_its_size_changed_says_what_to_remove(
    small: dict[str, Any], evaluated: FakeEvaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    keys = {**small, "arms": {"top": "top"}, "control": None}
    with monkeypatch.context() as patch:
        patch.setattr(import_module("ripcurrent.experiment._runner"), "finetune", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(keys, out)
    with pytest.raises(RipcurrentError, match="already holds another selection") as caught:
        run({**keys, "size": 9}, out)
    assert str(out / "arms" / "top-seed0") in (caught.value.hint or "")
    assert "--name" not in (caught.value.hint or "")


def _interrupted(*arguments: Any, **named: Any) -> None:
    raise KeyboardInterrupt


def test_a_password_in_a_judges_address_stands_in_no_file(small: dict[str, Any], tmp_path: Path) -> None:
    secret = {"judge_endpoint": "https://me:hunter2@localhost:9/v1", "judge_model": "judge"}
    run({**small, **secret}, tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in files if b"hunter2" in path.read_bytes()]
    assert read(tmp_path / "out" / "experiment.json")["judge_endpoint"] == "https://localhost:9/v1"


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([{"source": "builtin:plain"}], "None of the prompts is on the axis harmful"),
        ([], "None of the prompts is on the axis harmful"),
        (["empty.jsonl"], r"empty\.jsonl"),
    ],
)
def test_an_experiment_that_asks_nothing_harmful_is_refused_at_once(
    small: dict[str, Any], prompts: list[Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("")
    with pytest.raises(RipcurrentError, match=says):
        run({**small, "prompts": prompts}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_trained_on_other_kinds_of_devices_are_told(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert not [note for note in run(small, out).notes if "not trained alike" in note]
    manifest = read(out / "arms" / "random-seed0" / "finetune" / "manifest.json")
    manifest["model"]["device"], manifest["training"]["compute"] = "cuda:0", "bfloat16"
    write_json(out / "arms" / "random-seed0" / "finetune" / "manifest.json", manifest)
    (told,) = [note for note in run({**small, "seeds": [0, 1]}, out).notes if "not trained alike" in note]
    assert "cuda, bfloat16" in told
    assert "cpu, float32" in told


@pytest.fixture
def few(keys: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Two arms, one seed, forty prompts: more than one batch of them."""
    rows = [{"id": f"h{n}", "prompt": f"harmful request {n}", "axis": "harmful"} for n in range(34)]
    rows += [{"id": f"p{n}", "prompt": f"plain request {n}", "axis": "plain"} for n in range(6)]
    asked = write_jsonl(tmp_path / "few.jsonl", rows)
    arms = {"random": "random", "top": "top"}
    return {**keys, "seeds": [0], "arms": arms, "prompts": [{"source": str(asked)}], "max_new_tokens": 4}


def test_a_judges_endpoint_that_fails_loses_no_answer(
    few: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    works = False

    def script(request: dict[str, Any]) -> Answered:
        return completion('{"score": 5}') if works else error(401, "no such key")

    with serve(script) as server:
        asking = {**few, "judges": ["prefix", "rubric"], "judge_endpoint": server.url, "judge_model": "judge"}
        with pytest.raises(RipcurrentError, match="refuses the key") as caught:
            run(asking, out)
        assert caught.value.code == ExitCode.USAGE
        answers = out / "arms" / "base" / "evaluation" / "responses.parquet"
        kept = answers.read_bytes()
        works = True
        found = run(asking, out)
    assert answers.read_bytes() == kept
    assert {one.judge for one in found.arms} == {"prefix", "rubric"}
    assert read(out / "arms" / "top-seed0" / "arm.json")["status"] == "finished"
