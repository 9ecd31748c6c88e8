"""What is refused before anything is computed, and what is noticed when a folder is gone on with."""

import importlib.util
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import JudgeSettings, Prompt
from ripcurrent.experiment import expand_arms, parse_experiment
from ripcurrent.experiment._experiment import _refuse_equal_rows
from ripcurrent.experiment._prompts import keep_prompts
from ripcurrent.experiment._rows import open_pools
from ripcurrent.experiment._runner import judges_of
from ripcurrent.progress import SilentProgress
from ripcurrent.scan import ScanRun
from ripcurrent.scan import scan as make_scan
from ripcurrent.select import Selection
from tests.experiment.conftest import run
from tests.tiny_scan import EXACT, good_rows, write_jsonl

KEYS: dict[str, Any] = {"name": "x", "run": "main", "seeds": 1, "arms": {"random": "random"}}
SCANNED: dict[str, Any] = {"run": None, "data": "demo"}
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
        ({**SCANNED, "scan": {"signal": "gradient"}}, ("my.yaml: scan: ", "no option --signal")),
        ({**SCANNED, "scan": {"signals": "gradients"}}, ("my.yaml: scan: --signals gradients is not", "gradient?")),
        ({**SCANNED, "scans": {"b": {"options": {"laier": 3}}}}, ("my.yaml: scans: b: ", "no option --laier")),
        ({"dtype": "float16"}, ("Nothing is fine-tuned in float16",)),
        ({"device": "auto"}, ("Training runs on one GPU",)),
    ],
)
def test_what_is_not_possible_is_refused_before_the_folder_is_made(
    change: dict[str, Any], says: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(RipcurrentError) as caught:
        run({**KEYS, **change}, tmp_path / "out")
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
        run(KEYS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_experiment_that_stopped_before_any_result_gives_way_to_its_mended_file(tmp_path: Path) -> None:
    broken = {**KEYS, "run": None, "data": str(tmp_path / "nothing.jsonl")}
    with pytest.raises(RipcurrentError, match=r"nothing\.jsonl does not exist"):
        run(broken, tmp_path / "out")
    assert (tmp_path / "out" / "prompts.jsonl").exists()
    mended = {**broken, "data": str(tmp_path / "other.jsonl")}
    with pytest.raises(RipcurrentError, match=r"other\.jsonl does not exist"):
        run(mended, tmp_path / "out")
    (tmp_path / "out" / "arms" / "base").mkdir(parents=True)
    (tmp_path / "out" / "arms" / "base" / "arm.json").write_text("{}")
    with pytest.raises(RipcurrentError, match="holds another run: its heldout is"):
        run({**mended, "heldout": 3}, tmp_path / "out")


def test_judges_may_ask_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text(JUDGE)
    monkeypatch.setenv("MY_KEY", "secret")
    given = {"judge_endpoint": "http://localhost:9/v1", "judge_model": "judge", "judge_key_env": "MY_KEY"}
    asking = {**KEYS, "judges": [f"file:{tmp_path / 'mine.txt'}", "prefix"], **given}
    config = parse_experiment(asking, where="x")
    assert judges_of(config)[0] == ("tone", "prefix")
    settings = config.judge_settings(config.device)
    assert (settings.endpoint, settings.model, settings.key_env) == tuple(given.values())
    assert (settings.timeout, settings.concurrency) == (JudgeSettings().timeout, JudgeSettings().concurrency)


def test_other_prompts_are_noticed_in_a_folder_with_answers(tmp_path: Path) -> None:
    asked = [Prompt(str(n), f"request {n}", "harmful", "", "x") for n in range(3)]
    path = tmp_path / "prompts.jsonl"
    # nothing is answered yet
    for prompts in (asked, asked[:2], asked):
        keep_prompts(path, prompts)
    (tmp_path / "arms" / "base" / "evaluation").mkdir(parents=True)
    keep_prompts(path, asked)
    on_another_axis = [Prompt(one.id, one.text, "sounds_dangerous", "", "x") for one in asked]
    for changed in (asked[:2], on_another_axis, [*asked[:2], Prompt("2", "another", "harmful", "", "x")]):
        with pytest.raises(RipcurrentError, match="asked other prompts than now"):
            keep_prompts(path, changed)


def test_held_out_rows_are_in_no_scan_also_where_they_repeat(
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_an_arm_of_its_controls_rows_is_refused(rule: dict[str, Any], rows: range, refused: bool) -> None:
    config = parse_experiment({**KEYS, "arms": {"random": "random", "other": rule}, "scans": {"other": "x"}}, where="x")
    arms = {arm.name: arm for arm in expand_arms(config)}
    chosen = {
        (name, 0): Selection(name, "random", "", None, tuple(indices), ())
        for name, indices in (("random", range(20)), ("other", rows))
    }
    if not refused:
        _refuse_equal_rows(arms, chosen)
        return
    with pytest.raises(RipcurrentError, match=r"Arms other and random have \d+ of \d+ rows in common") as caught:
        _refuse_equal_rows(arms, chosen)
    assert "smaller size" in caught.value.hint
