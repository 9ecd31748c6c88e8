"""What is refused before anything is computed, and what a folder takes for the same thing or another one."""

import shutil
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.data import read_rows
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.experiment import expand_arms, parse_experiment
from ripcurrent.experiment._experiment import _refuse_equal_rows
from ripcurrent.experiment._rows import open_pools
from ripcurrent.progress import SilentProgress
from ripcurrent.runs import read_json_lines, write_json
from ripcurrent.scan import ScanRun
from ripcurrent.scan import scan as make_scan
from ripcurrent.select import Selection
from tests.evaluate.scripted_server import Answered, completion, error, serve
from tests.experiment.conftest import read, run
from tests.models.tiny import save_tiny
from tests.scan_fixtures import EXACT, good_rows, write_jsonl

KEYS: dict[str, Any] = {"name": "x", "run": "main", "seeds": 1, "arms": {"random": "random"}}
SCANNED: dict[str, Any] = {"run": None, "data": "demo"}
BY_LOSS, BY_NORM = ({"random": "random", "t": {"select": "top", "by": by}} for by in ("los", "gradient_norm"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"judges": ["prefx"]}, ("judges: No judge is named 'prefx'", "Did you mean")),
        ({"judges": ["rubric"]}, ("judges: ", "no endpoint", "judge_endpoint, judge_model")),
        ({**SCANNED, "scan": {"signal": "gradient"}}, ("my.yaml: scan: ", "no option --signal")),
        ({**SCANNED, "scans": {"b": {"options": {"laier": 3}}}}, ("my.yaml: scans: b: ", "no option --laier")),
        ({**SCANNED, "arms": BY_LOSS}, ("t: the scan will have no column 'los'", "Did you mean loss?")),
        ({**SCANNED, "arms": BY_NORM, "scan": {"signals": "representation"}}, ("will have no column 'gradient_norm'",)),
        ({"dtype": "float16"}, ("Nothing is fine-tuned in float16",)),
        ({"device": "auto"}, ("There is no device 'auto' here",)),
        ({**SCANNED, "prompts": [{"source": "builtin:plain"}]}, ("None of the prompts is on the axis harmful",)),
    ],
)
def test_what_is_not_possible_is_refused_before_the_folder_is_made(change, says, tmp_path):
    with pytest.raises(RipcurrentError) as caught:
        run({**KEYS, **change}, tmp_path / "out")
    assert all(part in str(caught.value) for part in says), str(caught.value)
    assert not (tmp_path / "out").exists()


def test_without_trl_the_install_line_is_shown_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("ripcurrent.experiment._experiment"), "find_spec", lambda name: None)
    with pytest.raises(RipcurrentError, match=r"trl is not installed.*\n.*ripcurrent\[train\]"):
        run(KEYS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_experiment_that_stopped_before_any_result_gives_way_to_its_mended_file(tmp_path):
    asked = [{"source": "builtin:harmful", "limit": 9}]
    for data in ("nothing", "other"):
        mended = {**KEYS, "run": None, "data": str(tmp_path / data)}
        with pytest.raises(RipcurrentError, match=f"{data} does not exist"):
            run(mended, tmp_path / "out")
    write_json(tmp_path / "out" / "arms" / "base" / "arm.json", {})
    for change, says in (({"heldout": 3}, "its heldout is 40, now 3"), ({"prompts": asked}, "its prompts had other")):
        with pytest.raises(RipcurrentError, match=f"holds another run: {says}"):
            run({**mended, **change}, tmp_path / "out")


def test_held_out_rows_are_in_no_scan_also_where_they_repeat(tmp_path, tiny_folder, anchors_file, monkeypatch):
    rows = good_rows(20)
    for name, some in (("whole", [*rows, *rows]), ("half", [{**row, "note": "as it was"} for row in rows[:10]])):
        data = write_jsonl(tmp_path / f"{name}.jsonl", some)
        make_scan(data, tmp_path / name, model=str(tiny_folder), anchors=str(anchors_file), **EXACT)
    keys = {**KEYS, "run": str(tmp_path / "whole"), "scans": {"half": str(tmp_path / "half")}, "heldout": 8}
    pools, held = open_pools(parse_experiment(keys, where="x"), tmp_path, SilentProgress(), {"half"})
    with pytest.raises(RipcurrentError, match="Of 40 usable rows, 21 cannot be held out"):
        open_pools(parse_experiment(keys | {"heldout": 21}, where="x"), tmp_path, SilentProgress(), set())
    assert len(held) == 8
    texts = {pool: ScanRun.open(tmp_path / pool).dataset() for pool in ("whole", "half")}
    out = {row.prompt for row in texts["whole"].at(held)}
    for name, pool in (("whole", pools[""]), ("half", pools["half"])):
        rows_of_pool = zip(pool.run.scored.tolist(), texts[name], strict=True)
        assert all(usable == (row.prompt not in out) for usable, row in rows_of_pool)


@pytest.mark.parametrize(
    ("rule", "rows", "refused"),
    [
        ({"select": "top"}, range(20), True),
        ({"select": "top"}, range(1, 20), True),
        ({"select": "top"}, range(5, 25), False),
        # leaving out little is what these are for
        ({"all_but": {"select": "random", "size": "5%"}}, range(19), False),
        ({"select": "all"}, range(20), False),
        # rows of the same numbers of another dataset
        ({"select": "top", "scan": "other"}, range(20), False),
        # the same rows trained in another way, which is what is asked there
        ({"select": "top", "recipe": "lora"}, range(20), False),
        ({"select": "random", "recipe": "embedded"}, range(20), True),
    ],
)
def test_an_arm_of_its_controls_rows_is_refused(rule, rows, refused):
    config = parse_experiment({**KEYS, "arms": {"random": "random", "other": rule}, "scans": {"other": "x"}}, where="x")
    arms = {arm.name: arm for arm in expand_arms(config)}
    chosen = {
        (name, 0): Selection(name, "random", "", None, tuple(indices), ())
        for name, indices in (("random", range(20)), ("other", rows))
    }
    says = r"Arms other and random have \d+ of \d+ rows in common.*\nGive a smaller size"
    with pytest.raises(RipcurrentError, match=says) if refused else nullcontext():
        _refuse_equal_rows(arms, chosen)


@pytest.fixture
def small(keys, evaluated) -> dict[str, Any]:
    """An experiment of one arm and seed."""
    return {**keys, "arms": {"random": "random"}, "seeds": [0]}


@pytest.fixture
def out(small, tmp_path) -> Path:
    """Its folder, finished."""
    run(small, tmp_path / "out")
    return tmp_path / "out"


def moved_scan(keys: dict[str, Any], folder: Path, **dataset: str) -> str:
    """The experiment's scan in another place, with other facts on its dataset."""
    shutil.copytree(keys["run"], folder)
    manifest = read(folder / "manifest.json")
    manifest["dataset"] |= dataset
    write_json(folder / "manifest.json", manifest)
    return str(folder)


def rows_of(keys: dict[str, Any]) -> Path:
    return Path(read(Path(keys["run"]) / "manifest.json")["dataset"]["path"])


def test_finished_arms_stay_when_scan_and_rows_have_moved(small, out, tmp_path):
    before = read(out / "arms" / "random-seed0" / "arm.json")
    rows = shutil.copyfile(rows_of(small), tmp_path / "rows.jsonl")
    moved = {**small, "run": moved_scan(small, tmp_path / "moved", path=str(tmp_path / "gone.jsonl"))}
    with pytest.raises(RipcurrentError, match=r"gone\.jsonl") as caught:
        run(moved, out)
    assert "data, beside run" in caught.value.hint
    assert run({**moved, "data": str(rows)}, out).complete
    assert read(out / "arms" / "random-seed0" / "arm.json") == before


def test_arms_of_two_datasets_do_not_meet_in_one_folder(small, out, tmp_path):
    changed = write_jsonl(tmp_path / "changed.jsonl", read_json_lines(rows_of(small))[::-1])
    with pytest.raises(RipcurrentError, match="has changed since it was scanned"):
        run({**small, "run": moved_scan(small, tmp_path / "unnoticed", path=str(changed))}, out)
    sha256 = read_rows(changed).count_and_hash()[1]
    other = moved_scan(small, tmp_path / "other", path=str(changed), sha256=sha256)
    # also where the arm that is there is not asked for now
    for named in (None, ["top"]):
        with pytest.raises(RipcurrentError, match="holds arm random with other rows than now"):
            run({**small, "run": other, "arms": {"random": "random", "top": "top"}}, out, arms=named)
    assert len(list(out.glob("arms/*/finetune"))) == 1
    # and what reads the folder later is not told that its arms are of the other scan
    assert read(out / "experiment.json")["run"] == small["run"]


def test_a_model_that_changed_since_it_was_scanned_with_is_refused(small, tmp_path):
    model = str(save_tiny(tmp_path / "mine", "llama_tied", seed=3))
    scan = Path(moved_scan(small, tmp_path / "scan"))
    manifest = read(scan / "manifest.json")
    manifest["model"]["name"] = manifest["options"]["model"] = model
    write_json(scan / "manifest.json", manifest)
    keys = {**small, "run": str(scan), "model": model}
    with pytest.raises(RipcurrentError, match=r"has changed since .* was made with it"):
        run(keys, tmp_path / "out")
    assert not (tmp_path / "out" / "arms" / "random-seed0" / "arm.json").exists()
    # rows chosen with one model may be held against another one
    assert run({**keys, "model": small["model"]}, tmp_path / "other").complete


def test_arms_of_other_weights_than_those_asked_before_are_refused(small, out):
    shutil.rmtree(out / "arms" / "random-seed0")
    write_json(out / "arms" / "base" / "evaluation" / "manifest.json", {"model": {"fingerprint": "another"}})
    with pytest.raises(RipcurrentError, match="has changed since base was made from it"):
        run(small, out)
    assert not list(out.glob("arms/*/finetune"))


def test_a_password_in_a_judges_address_stands_in_no_file(small, tmp_path):
    secret = {"judge_endpoint": "https://me:hunter2@localhost:9/v1", "judge_model": "judge"}
    run({**small, **secret}, tmp_path / "out")
    assert not [one for one in (tmp_path / "out").rglob("*") if one.is_file() and b"hunter2" in one.read_bytes()]
    assert read(tmp_path / "out" / "experiment.json")["judge_endpoint"] == "https://localhost:9/v1"


def test_a_judges_endpoint_that_fails_loses_no_answer(keys, tmp_path, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    out, works = tmp_path / "out", False
    # more than one batch of prompts
    rows = [{"id": str(n), "prompt": f"request {n}", "axis": "plain" if n > 33 else "harmful"} for n in range(40)]
    asked = {"prompts": [str(write_jsonl(tmp_path / "few.jsonl", rows))], "max_new_tokens": 4}
    few = {**keys, **asked, "seeds": [0], "arms": {"random": "random", "top": "top"}}

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
