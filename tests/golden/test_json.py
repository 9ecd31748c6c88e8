"""What ``--json`` prints has at least these keys."""

from pathlib import Path
from typing import Any

from tests.golden.small import asked_for_json, write_jsonl


def test_scan(scanned):
    found = scanned.json
    required = ("run", "scores", "report", "rows", "scored", "unscored", "model", "anchors", "separation", "ranking")
    assert set((*required, "quantiles", "truncated", "riskiest", "format_shares")) <= found.keys()
    assert (found["rows"], found["scored"], found["unscored"], found["truncated"]) == (60, 60, {}, 0)
    assert found["run"] == str(scanned.folder)
    assert Path(found["scores"]) == scanned.folder / "scores.parquet"
    assert Path(found["report"]).is_file()
    assert found["ranking"] == "gradient_bidirectional"
    assert len(found["riskiest"]) == 10
    assert {"row", "id", "score"} <= found["riskiest"][0].keys()
    scores = [one["score"] for one in found["riskiest"]]
    assert scores == sorted(scores, reverse=True)


def test_select(scanned, tmp_path):
    found = asked_for_json("select", scanned.folder, "--top", 3, "--controls", "--out", tmp_path / "chosen")
    assert {"run", "selections"} <= found.keys()
    required = ("name", "kind", "rule", "control_of", "column", "seed", "rows", "file", "record", "distances", "notes")
    for one in found["selections"]:
        assert set((*required, "mean_response_tokens")) <= one.keys()
        assert Path(one["file"]).is_file()
    assert [one["rows"] for one in found["selections"]] == [3] * len(found["selections"])


def test_finetune(trained):
    found = trained.json
    required = ("run", "model", "adapter", "base", "recipe", "seed", "rows", "trained_rows", "left_out", "truncated")
    assert set((*required, "steps", "first_loss", "last_loss", "notes")) <= found.keys()
    assert (found["rows"], found["trained_rows"], found["steps"], found["seed"]) == (60, 60, 8, 0)
    assert found["adapter"] is None
    assert (Path(found["model"]) / "model.safetensors").is_file()


def test_evaluate(evaluated):
    found = evaluated.json
    assert {"run", "model", "prompts", "judges", "rates", "discrimination", "notes"} <= found.keys()
    assert list(found["rates"]) == ["wording", "prefix"]
    for axes in found["rates"].values():
        assert {axis: one["n"] for axis, one in axes.items()} == {"harmful": 40, "sounds_dangerous": 10, "plain": 10}
        for one in axes.values():
            required = ("judge_version", "answered", "low", "high", "refused", "degenerate", "truncated", "unjudged")
            assert set(required) <= one.keys()


def test_experiment(experimented):
    found = experimented.json
    assert {"arms", "comparisons", "verdict", "judge"} <= found.keys()
    assert isinstance(found["verdict"], str)
    required = ("name", "seed", "attack_success_rate", "low", "high", "n", "judge", "over_refusal", "degenerate")
    for arm in found["arms"]:
        assert set(required) <= arm.keys()
    for one in found["comparisons"]:
        assert {"arm", "control", "judge", "difference", "low", "high"} <= one.keys()


def test_doctor(files):
    found = asked_for_json("doctor", files.rows, "--probe", *files.tiny, "--anchors", files.anchors)
    assert {"environment", "model", "dataset"} <= found.keys()
    for one in found["environment"]:
        assert {"name", "value", "advice", "ok"} <= one.keys()
    assert {"name", "fingerprint", "device", "dtype", "parameters"} <= found["model"].keys()
    assert found["dataset"]["rows"] == 60


def test_anchors_check(files):
    # a random model need not tell these anchors apart, which is exit code 2
    found = asked_for_json("anchors", "check", files.anchors, *files.tiny, "--quiet", codes=(0, 2))
    assert {"name", "model", "separation", "anchors"} <= found.keys()
    assert {"gradient_balanced", "representation_bidirectional"} <= found["separation"].keys()
    assert len(found["anchors"]) == 12
    for one in found["anchors"]:
        assert {"set", "number", "scores"} <= one.keys()
        assert all(isinstance(value, float) for value in one["scores"].values())


def test_judges_validate(tmp_path):
    said: list[dict[str, Any]] = [
        {"prompt": "a request", "completion": completion, "final_label": label}
        for completion, label in (
            ("I cannot help with that.", "2_full_refusal"),
            ("Sure, here is a list: one, two, three.", "1_full_compliance"),
            ("I'm sorry, but I can't help with that.", "2_full_refusal"),
            ("Certainly. It takes two steps, and both are short.", "1_full_compliance"),
        )
    ]
    found = asked_for_json("judges", "validate", write_jsonl(tmp_path / "labelled.jsonl", said))
    assert {"prefix", "keyword"} <= found.keys()
    for one in found.values():
        assert {"kappa", "accuracy", "n"} <= one.keys()
        assert (one["kappa"], one["accuracy"], one["n"]) == (1.0, 1.0, 4)
