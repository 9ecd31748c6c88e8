"""Tasks of the lm-evaluation-harness, by its own code: scored on the untrained model and on every arm."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ripcurrent.cli import run as cli
from ripcurrent.evaluate import task_scores
from ripcurrent.models import ChatModel, load_model
from tests.experiment.conftest import run
from tests.models.test_adapter import save_adapter
from tests.scan_fixtures import write_jsonl

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

QUESTIONS = [{"question": "the man saw", "choices": [" a dog", " the woman", " it"], "answer": n % 3} for n in range(5)]


@pytest.fixture
def task(tmp_path) -> Path:
    rows = write_jsonl(tmp_path / "questions.jsonl", QUESTIONS)
    texts = {"doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "answer"}
    where = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}}, "test_split": "test"}
    about = {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}], "metadata": {"version": 2.0}}
    # JSON is YAML
    (file := tmp_path / "seen.yaml").write_text(json.dumps({"task": "seen", **where, **texts, **about}))
    return file


def is_right(chat_model: ChatModel, one: dict[str, Any]) -> bool:
    """Whether the right choice has the largest probability."""
    scores, asked = [], len(chat_model.tokenizer(one["question"])["input_ids"])
    for choice in one["choices"]:
        ids = chat_model.tokenizer(one["question"] + choice)["input_ids"]
        logits = chat_model.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        scores.append(sum(float(logits[at - 1, ids[at]]) for at in range(asked, len(ids))))
    return scores.index(max(scores)) == one["answer"]


def test_every_model_of_an_experiment_is_scored_on_tasks(keys, evaluated, task, tmp_path, tiny_folder):
    arms, out = {"random": "random", "top": "top"}, tmp_path / "out"
    found = run({**keys, "arms": arms, "seeds": 1, "tasks": str(task), "keep_models": True}, out)
    kept = {one.arm: one.tasks for one in found.read(out).details}
    assert set(kept) == {"base", *arms}
    for arm, folder in {"base": tiny_folder, "top": out / "arms" / "top-seed0" / "finetune" / "model"}.items():
        chat_model = load_model(str(folder), device="cpu", dtype="float32")
        share = sum(is_right(chat_model, one) for one in QUESTIONS) / 5
        (score,) = kept[arm]
        assert (score.task, score.metric, score.questions, score.version) == ("seen", "acc", 5, "2.0")
        assert (score.score, score.stderr) == pytest.approx((share, (share * (1 - share) / 4) ** 0.5))
    assert task_scores(chat_model, [str(task)], limit=2)[0].questions == 2


def test_a_check_scores_base_and_tuned_model_on_tasks(task, tmp_path, tiny_folder, capsys):
    adapter, few = save_adapter(tmp_path / "adapter"), ["--limit", "2", "--max-new-tokens", "4", "--device", "cpu"]
    asked = ["check", "-m", str(tiny_folder), "--task", str(task), "--dtype", "float32", *few]
    command = [*asked, "--adapter", str(adapter), "--out", str(tmp_path / "check"), "--json"]
    assert cli(command) in (0, 3, 4)
    (first,) = json.loads(capsys.readouterr().out)["tasks"]
    for side, of in (("before", None), ("after", str(adapter))):
        (alone,) = task_scores(load_model(str(tiny_folder), adapter=of, device="cpu", dtype="float32"), [str(task)])
        assert (first[side], first[f"{side}_stderr"]) == pytest.approx((alone.score, alone.stderr))
    # more questions or fewer are no other check: the answers stay
    assert cli([*command, "--task-limit", "2"]) in (0, 3, 4)
    assert [one["questions"] for one in json.loads(capsys.readouterr().out)["tasks"]] == [2]
    assert cli([*asked, "--tuned", "served", "--endpoint", "http://127.0.0.1:9/v1", "--out", str(tmp_path / "e")]) == 1
    assert "not read from an endpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "said"),
    [('{"task": "seen"', "ParserError"), ('{"task": "seen", "dataset": 1}', "unexpected keyword"), (None, "no task '")],
)
def test_a_task_that_cannot_be_run_is_refused_before_anything_is_made(keys, task, tmp_path, capsys, written, said):
    task.write_text(written) if written else task.unlink()
    (file := tmp_path / "own.yaml").write_text(json.dumps({**keys, "tasks": {"names": [str(task)]}}))
    assert cli(["experiment", str(file), "--out", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
