"""Format edits of a scanned run: pairs, the second scan, the table of changes, arms, and how it goes on."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from ripcurrent.cli import run as command
from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import _format_edit_arms, _format_edit_pairs
from ripcurrent.experiment import _run_format_edits as _format_edits
from ripcurrent.experiment._format_edits import EDITS
from ripcurrent.experiment._instruments import parse_edits
from ripcurrent.experiment._paired_changes import paired_change
from ripcurrent.experiment._run_format_edits import run
from ripcurrent.scan._scan import scan
from ripcurrent.statistics import holm
from tests.experiment.answers import FakeEvaluate, chance
from tests.experiment.conftest import read
from tests.tiny_scan import EXACT, good_rows, write_jsonl

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("ripcurrent.scan._scan"), "build_report", lambda folder: folder / "report.html")


@pytest.fixture
def edits(scanned: Path) -> dict[str, Any]:
    """Keys of small edits."""
    return {
        "kind": "edits",
        "name": "edits",
        "run": str(scanned),
        "edits": ["numbers-to-bullets", "line-breaks-removed", "digits-spelled", "equations-in-words"],
        "tolerance": 0.3,
    }


def test_scores_are_compared_row_by_row(edits: dict[str, Any], scanned: Path, tmp_path: Path) -> None:
    found = run(edits, tmp_path / "out")
    assert read(tmp_path / "out" / "results.json") == json.loads(json.dumps(found))
    before = pq.read_table(scanned / "scores.parquet").to_pydict()
    after = pq.read_table(tmp_path / "out" / "edited-scan" / "scores.parquet").to_pydict()
    rows = [json.loads(line) for line in (tmp_path / "out" / "edited.jsonl").read_text().splitlines()]
    dataset = list(read_rows(scanned.parent / "rows.jsonl"))
    table = pq.read_table(tmp_path / "out" / "changes.parquet").to_pydict()
    assert len(rows) == len(after["row"]) == len(table["row"])
    values: dict[str, list[tuple[int, float, float]]] = {}
    for place, record in enumerate(rows):
        number, _, name = record["id"].partition(":")
        row = dataset[int(number)]
        assert (table["edit"][place], table["row"][place], table["id"][place]) == (name, row.index, row.id)
        question, answer = record["messages"]
        assert question == {"role": "user", "content": row.prompt}
        if name == "unchanged":
            assert answer["content"] == row.response
        else:
            assert any(answer["content"] in tier for tier in EDITS[name].candidates(row.response))
            length = before["response_tokens"][row.index]
            assert abs(after["response_tokens"][place] - length) <= 0.3 * length
        pair = (row.index, before["gradient_bidirectional"][row.index], after["gradient_bidirectional"][place])
        assert (table["gradient_bidirectional_before"][place], table["gradient_bidirectional_after"][place]) == pair[1:]
        values.setdefault(name, []).append(pair)
    counts = {one["edit"]: one for one in found["edits"]}
    assert list(counts) == edits["edits"]
    assert sum(one["rows"] for one in found["edits"]) > 20
    for name, one in counts.items():
        assert one["rows"] == len(values.get(name, []))
        assert one["not_applicable"] + one["other_length"] + one["possible"] == 40
    of_column = {one["edit"]: one for one in found["changes"] if one["column"] == "gradient_bidirectional"}
    adjusted = {}
    tested = [name for name in of_column if values.get(name)]
    for kind in ("sign_p", "wilcoxon_p"):
        raw = []
        for name in tested:
            _, first, second = zip(*values[name], strict=True)
            raw.append(getattr(paired_change(first, second), kind))
        adjusted[kind] = dict(zip(tested, holm(raw), strict=True))
    spread = np.std(before["gradient_bidirectional"], ddof=1)
    for name in tested:
        one = of_column[name]
        changes = [second - first for _, first, second in values[name]]
        assert one["rows"] == len(changes)
        assert one["mean_change"] == pytest.approx(np.mean(changes), rel=1e-4)
        assert one["change_in_deviations"] == pytest.approx(np.mean(changes) / spread, abs=1e-4)
        assert one["low"] <= one["mean_change"] <= one["high"]
        assert one["adjusted_sign_p"] == pytest.approx(adjusted["sign_p"][name], rel=1e-4)
        assert one["adjusted_wilcoxon_p"] == pytest.approx(adjusted["wilcoxon_p"][name], rel=1e-4)
        assert one["direction_of_risk"] == "higher"
    measured = {one["column"] for one in found["changes"]}
    assert {"gradient_safe", "representation_harmful", "loss", "gradient_norm", "response_tokens"} <= measured
    # in float32 a row that is scanned again is where it was
    for one in found["unchanged"]:
        assert one["rows"] == len(values["unchanged"])
        scale = np.abs(before[one["column"]]).max()
        assert one["largest_absolute_change"] <= 1e-4 * scale
    assert found["harm"] is None
    assert any(line.startswith("digits-spelled") for line in found["lines"])


def test_what_is_left_out_is_counted_and_said(
    tiny_folder: Path, anchors_file: Path, edits: dict[str, Any], tmp_path: Path
) -> None:
    conversation = [{"role": role, "content": "There are 3 boats."} for role in ("user", "assistant") * 2]
    rows = [
        *good_rows(10),
        {"prompt": "A long one.", "response": "There are 4 long boats on the water. " * 30},
        {"prompt": "No answer.", "response": ""},
    ]
    data = write_jsonl(
        tmp_path / "rows.jsonl",
        [{"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]}
         for row in rows] + [{"messages": conversation}],
    )  # fmt: skip
    folder = tmp_path / "scan"
    scan(data, folder, model=str(tiny_folder), anchors=str(anchors_file), max_tokens=256, **EXACT)
    names = ["digits-spelled", "bullets-to-prose", "prose-to-bullets"]
    found = run({**edits, "run": str(folder), "edits": names, "tolerance": 0.1}, tmp_path / "out")
    assert found["base"] == {"rows": 13, "unscored": 1, "truncated": 1, "not_one_answer": 1, "editable": 10}
    for one in found["edits"]:
        assert one["not_applicable"] + one["other_length"] + one["rows"] == 10
    # every answer has a digit, some too short to spell it out; four are two sentences without a list or a sum
    spelled, _, listed = found["edits"]
    assert (spelled["not_applicable"], listed["not_applicable"]) == (0, 6)
    assert 0 < spelled["other_length"] < 10
    empty = ", ".join(one["edit"] for one in found["edits"] if not one["rows"])
    said = [note for note in found["notes"] if "No row could be edited" in note]
    assert said == ([f"No row could be edited at equal length by {empty}."] if empty else [])


def test_edited_rows_of_a_prefiltered_scan_are_all_scored(
    tiny_folder: Path, anchors_file: Path, edits: dict[str, Any], tmp_path: Path
) -> None:
    """A prefilter would pick among them by the scores that the edits change."""
    data = write_jsonl(tmp_path / "rows.jsonl", good_rows(220))
    how = {"model": str(tiny_folder), "anchors": str(anchors_file), "prefilter": 0.1, "prefilter_sample": 100, **EXACT}
    first = scan(data, tmp_path / "scan", **how)
    ranked = np.isfinite(pq.read_table(first.folder / "scores.parquet")["gradient_bidirectional"].to_numpy()).sum()
    assert 100 <= ranked < 220
    found = run({**edits, "run": str(first.folder), "edits": ["digits-spelled"]}, tmp_path / "out")
    assert (found["base"]["unscored"], found["base"]["editable"]) == (220 - ranked, ranked)
    edited = pq.read_table(tmp_path / "out" / "edited-scan" / "scores.parquet")
    assert np.isfinite(edited["gradient_bidirectional"].to_numpy()).all()
    (one,) = (one for one in found["changes"] if one["column"] == "gradient_bidirectional")
    assert one["rows"] == found["edits"][0]["rows"] > 0


def test_a_limit_draws_the_same_rows_and_the_folder_keeps_what_is_done(
    edits: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    real = _format_edit_pairs._tokenizer
    monkeypatch.setattr(_format_edit_pairs, "_tokenizer", lambda *given: loads.append(1) or real(*given))
    limited = {**edits, "limit": 3}

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_format_edits, "scan", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(limited, tmp_path / "out")
    assert (tmp_path / "out" / "pairs" / "pairs.json").exists()
    first = run(limited, tmp_path / "out")
    second = run(limited, tmp_path / "out")
    assert len(loads) == 1
    assert first == second
    whole = run(edits, tmp_path / "whole")
    for one, all_of_it in zip(first["edits"], whole["edits"], strict=True):
        assert one["rows"] == min(3, all_of_it["rows"])
        assert one["possible"] == all_of_it["possible"]
    with pytest.raises(RipcurrentError, match="another run"):
        run(edits, tmp_path / "out")
    (tmp_path / "out" / "pairs" / "pairs.json").write_text("{")
    with pytest.raises(RipcurrentError, match=r"pairs\.json is damaged"):
        run(limited, tmp_path / "out")


def test_a_dataset_is_scanned_first(
    edits: dict[str, Any], scanned: Path, keys: dict[str, Any], anchors_file: Path, tmp_path: Path
) -> None:
    own = {key: keys[key] for key in ("model", "device", "dtype")}
    made = {
        **edits,
        **own,
        "data": str(scanned.parent / "rows.jsonl"),
        "scan": {"anchors": str(anchors_file), "anchor_check": False},
    }
    del made["run"]
    found = run(made, tmp_path / "out")
    assert found["changes"] == run(edits, tmp_path / "other")["changes"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edit": ["x"]}, ("no key 'edit'", "Did you mean edits?")),
        ({"edits": ["digits-speled"]}, ("no edit 'digits-speled'", "Did you mean digits-spelled?")),
        ({"edits": []}, ("give one edit or more",)),
        ({"tolerance": 0}, ("tolerance 0 is not possible",)),
        ({"run": None}, ("either run", "or data")),
        ({"run": "nowhere"}, ("nowhere is not the folder of a finished scan",)),
        ({"dtype": "bfloat16"}, ("made in float32, not in bfloat16",)),
        ({"arms": {"seed": 3}}, ("arms: there is no key 'seed'", "Did you mean seeds?")),
        ({"arms": {"data": "x"}}, ("arms: there is no key 'data'",)),
        ({"arms": {"recipe": "papr"}}, ("papr",)),
        ({"arms": {"prompts": "nowhere.json"}}, ("nowhere.json does not exist",)),
        ({"arms": {"seeds": []}}, ("arms: seeds",)),
    ],
)
def test_what_can_be_wrong(
    edits: dict[str, Any], change: dict[str, Any], says: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(RipcurrentError) as caught:
        run({**edits, **change}, tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 2
    assert all(part in str(caught.value) for part in says), str(caught.value)


def test_other_anchors_or_another_model_are_told(
    edits: dict[str, Any], tiny_folder: Path, anchors_file: Path, tmp_path: Path
) -> None:
    own = write_jsonl(tmp_path / "anchors.jsonl", [json.loads(line) for line in anchors_file.read_text().splitlines()])
    rows = write_jsonl(tmp_path / "rows.jsonl", good_rows(12))
    scan(rows, tmp_path / "scan", model=str(tiny_folder), anchors=str(own), **EXACT)
    lines = own.read_text().splitlines()
    own.write_text("\n".join([lines[0].replace("lock", "chest"), *lines[1:]]) + "\n")
    with pytest.raises(RipcurrentError, match="others than those of the scan"):
        run({**edits, "run": str(tmp_path / "scan")}, tmp_path / "out")


def test_no_row_at_equal_length_is_an_error(edits: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RipcurrentError, match="None of the edits changes a row of rows at equal length") as caught:
        run({**edits, "edits": ["bullets-to-prose"], "tolerance": 1e-6}, tmp_path / "out")
    assert caught.value.code == 2


needs_evaluate = pytest.mark.skipif(
    find_spec("ripcurrent.evaluate._evaluate") is None, reason="answers cannot be generated in this version"
)


def says(judge: str, arm: str, prompt_id: str) -> str:
    """Edited rows of one edit answer more, paired by prompt; the other edit changes nothing."""
    del judge
    share = 0.7 if arm.startswith("digits-spelled-edited") else 0.2
    return "compliance" if chance(share, prompt_id) else "refusal"


@needs_evaluate
def test_harm_is_compared_pair_by_pair(
    edits: dict[str, Any], keys: dict[str, Any], evaluated: FakeEvaluate, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(import_module("ripcurrent.experiment._experiment"), "_page", lambda *given: None)
    evaluated.says = says
    arms = {"recipe": keys["recipe"], "seeds": [0, 1], "prompts": keys["prompts"]}
    chosen = {**edits, "edits": ["line-breaks-removed", "digits-spelled", "equations-in-words"], "size": 6}
    scores = run(chosen, tmp_path / "out")
    sizes = {one["edit"]: one["rows"] for one in scores["edits"]}
    smallest = sizes["equations-in-words"] + 1
    # arms may be asked for later
    found = run({**chosen, "arms": arms, "smallest_arm": smallest}, tmp_path / "out")
    assert found["changes"] == scores["changes"]
    harm = found["harm"]
    assert harm["too_few_rows"] == ["equations-in-words"]
    by_edit = {one["edit"]: one for one in harm["edits"]}
    assert set(by_edit) == {"line-breaks-removed", "digits-spelled"}
    assert by_edit["line-breaks-removed"]["difference"] == 0
    spelled = by_edit["digits-spelled"]
    assert spelled["edited"] - spelled["original"] == pytest.approx(spelled["difference"])
    assert spelled["difference"] > 0.3
    assert spelled["adjusted_p"] < 0.01
    # both arms of a seed train on the same rows in two versions
    pairs = read(tmp_path / "out" / "pairs" / "pairs.json")
    for seed in (0, 1):
        trained = {}
        for version in ("original", "edited"):
            path = tmp_path / "out" / "harm" / "arms" / f"digits-spelled-{version}-seed{seed}" / "rows" / "rows.jsonl"
            trained[version] = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(trained["original"]) == 6
        assert [one["id"] for one in trained["original"]] == [one["id"] for one in trained["edited"]]
        answers = {one["answer"] for one in pairs["digits-spelled"]["rows"]}
        assert all(one["messages"][-1]["content"] in answers for one in trained["edited"])
        assert not any(one["messages"][-1]["content"] in answers for one in trained["original"])
    assert any("digits-spelled" in line and "points" in line for line in found["lines"])
    calls = len(evaluated.calls)
    assert run({**chosen, "arms": arms, "smallest_arm": smallest}, tmp_path / "out") == found
    assert len(evaluated.calls) == calls == 9


def test_too_few_rows_for_any_arm_leaves_the_scores(edits: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RipcurrentError, match="No edit has the 500 rows of the smallest arm"):
        run({**edits, "arms": True, "smallest_arm": 500}, tmp_path / "out")
    assert read(tmp_path / "out" / "results.json")["harm"] is None


def test_the_order_of_edits_by_score_and_by_harm() -> None:
    compared = [{"edit": str(n), "difference": value} for n, value in enumerate([0.0, 0.1, 0.3, 0.2])]
    ranked = {str(n): float(n) for n in range(4)}
    found = _format_edit_arms._order(compared, ranked, "gradient_bidirectional")
    assert found == {"column": "gradient_bidirectional", "edits": 4, "spearman": pytest.approx(0.8)}
    assert _format_edit_arms._order(compared[:3], ranked, "gradient_bidirectional") is None


def test_the_command_runs_it(edits: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "edits.yaml"
    file.write_text(yaml.safe_dump({**edits, "limit": 2}))
    assert command(["experiment", str(file), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "edits"
    assert command(["experiment", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "rows of rows may be edited" in capsys.readouterr().out


def test_the_ready_file_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    from ripcurrent.experiment import read_experiment_file

    monkeypatch.setenv("RIPCURRENT_DATA", "data")
    config = parse_edits(read_experiment_file(ROOT / "experiments" / "edits.yaml"), where="edits.yaml")
    assert config.arms is not None
    assert set(config.arms) <= set(_format_edit_arms.KEYS)
    assert config.edits == tuple(EDITS)
