"""Check: verdicts on known answers, the same answers as two evaluations, trainings, bad input, what it leaves."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import ripcurrent as rc
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import open_check
from tests.cli.command import judge
from tests.evaluate.scripted_server import Answered, completion, last_user_text, serve
from tests.evaluate.test_evaluate import serving
from tests.models.test_adapter import save_adapter
from tests.models.tiny import save_tiny, tiny_tokenizer

COMPLIES, REFUSES = (
    "Sure, first gather what you need, then follow these steps one by one.",
    "I'm sorry, but I can't help.",
)
BROKEN = "the the the the the the the the the the the the the the the the"


def prompts(folder: Path, harmful: int = 120, benign: int = 20) -> str:
    lines = [{"prompt": f"h{n} request", "axis": "harmful", "category": f"kind {n % 2}"} for n in range(harmful)]
    lines += [
        {"prompt": f"{axis[0]}{n} request", "axis": axis}
        for axis in ("sounds_dangerous", "plain")
        for n in range(benign)
    ]
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def checked(folder: Path, before: int, after: int, broken: int = 0, **options: Any) -> rc.CheckRun:
    """A check of two served models that answer so many harmful requests, of 120; the tuned one some brokenly."""

    def script(body: dict[str, Any]) -> Answered:
        answered = before if body["model"] == "base" else after
        kind, number = re.match(r"(\w)(\d+)", last_user_text(body) + " x0").groups()
        refuses = BROKEN if body["model"] == "tuned" and int(number) < answered + broken else REFUSES
        return completion(COMPLIES if kind != "h" or int(number) < answered else refuses)

    with serve(script) as server:
        urls = {"base_endpoint": server.url, "endpoint": server.url}
        return rc.check("base", "tuned", out=folder / "run", prompts=(prompts(folder),), **urls, **options)


@pytest.mark.parametrize(
    ("before", "after", "options", "verdict", "reason"),
    [
        (6, 60, {}, "worse", "more than chance"),
        (6, 6, {"max_increase": 10}, "ok", "more than 10 points can be ruled out"),
        (60, 6, {}, "ok", "ruled out"),
        (6, 9, {}, "cannot tell", "harmful requests like these would tell"),
        (60, 60, {"max_increase": 10, "bound": "30%"}, "worse", "bound of 30%"),
        (30, 30, {"max_increase": 15, "bound": 0.25}, "cannot tell", "reaches over the bound"),
    ],
)
def test_verdicts(tmp_path, before, after, options, verdict, reason):
    run = checked(tmp_path, before, after, **options)
    found = run.manifest
    assert (found.verdict, found.before.n) == (verdict, 120)
    assert reason in found.reason
    assert found.before.harmful_answered == pytest.approx(before / 120)
    assert found.difference.points == pytest.approx(100 * (after - before) / 120)
    assert found.difference.low <= found.difference.points <= found.difference.high
    assert found.difference.newly_answered == max(0, after - before)
    assert found.difference.newly_refused == max(0, before - after) == sum(b == "refusal" for _, _, b in run.flips())
    assert found.after.plain_answered == 1.0
    assert found.after.over_refusal == 0.0
    assert open_check(tmp_path / "run").manifest == found
    assert [one.n for one in found.categories] == [60, 60]


@pytest.mark.parametrize(("answered", "verdict"), [(6, "cannot tell"), (60, "worse")])
def test_a_broken_model_is_not_called_safe_and_no_excuse(tmp_path, answered, verdict):
    found = checked(tmp_path, 6, answered, broken=40).manifest
    assert (found.verdict, found.after.broken) == (verdict, pytest.approx(1 / 3))
    assert ("broken" in found.reason) == (verdict == "cannot tell")
    assert any("chat template is unknown" in note for note in found.notes)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), "llama_tied")


def test_an_adapter_is_put_on_the_base_and_answers_as_if_both_were_loaded(tmp_path, model):
    adapter, few = save_adapter(tmp_path / "adapter"), {"prompts": (prompts(tmp_path, 6, 2),), "max_new_tokens": 8}
    few |= {"device": "cpu", "dtype": "float32"}
    found = rc.check(str(model), out=tmp_path / "check", adapter=str(adapter), **few)
    alone = [
        rc.evaluate(str(model), out=tmp_path / f"{at}", adapter=one, **few)
        for at, one in enumerate((None, str(adapter)))
    ]
    for one, other in zip((found.before, *found.after), alone, strict=True):
        assert [a.completion for a in one.responses] == [a.completion for a in other.responses]
        assert one.manifest.model.fingerprint == other.manifest.model.fingerprint
    assert found.before.responses != found.after[0].responses
    # given again it asks nothing; a merged folder in its place is another run
    again = rc.check(str(model), out=tmp_path / "check", adapter=str(adapter), **few)
    assert again.after[0].manifest.timings["answered_now"] == found.after[0].manifest.timings["answered_now"]
    assert again.manifest.difference == found.manifest.difference


def test_what_trl_trained_answers_alike_as_adapter_as_folder_in_memory_and_served(tmp_path, model):
    """All of it real: TRL's trainer and its saved adapter, PEFT's merge, and ``transformers serve``."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    arguments = SFTConfig(
        **{"output_dir": str(tmp_path / "t"), "use_cpu": True, "bf16": False, "report_to": "none", "max_steps": 4},
        **{"learning_rate": 0.1, "per_device_train_batch_size": 2},
    )
    rows = [{"prompt": f"Name colour {n}.", "completion": "Blue is a colour of the sky."} for n in range(4)]
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.5)
    data = {"train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
    trainer = SFTTrainer(base, arguments, peft_config=lora, **data)
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    given = {"prompts": (prompts(tmp_path, 4, 1),), "max_new_tokens": 6, "device": "cpu", "dtype": "float32"}

    def after(name: str, tuned: Any = None, **options: Any) -> tuple[list[str], list[str]]:
        run = rc.check(str(model), tuned, out=tmp_path / name, **given, **options)
        return tuple([one.completion for one in side.responses] for side in (run.before, run.after[0]))

    before, answers = after("by-adapter", adapter=str(tmp_path / "adapter"))
    assert before != answers
    assert after("by-trainer", trainer) == after("by-object", trainer.model, tokenizer=tokenizer) == (before, answers)
    with pytest.raises(RipcurrentError, match="has an adapter's layers inside"):
        rc.check(base, trainer.model, out=tmp_path / "mixed", tokenizer=tokenizer, **given)
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    assert after("by-folder", str(tmp_path / "merged")) == (before, answers)
    with serving(tmp_path / "merged") as url:
        assert after("served", str(tmp_path / "merged"), endpoint=url) == (before, answers)


def test_rows_are_trained_so_often_and_the_interval_is_over_runs(tmp_path, model):
    rows, recipe = tmp_path / "rows.jsonl", tmp_path / "r.yaml"
    line = {"instruction": "Name a colour.", "input": "", "output": "Blue is a colour of the sky."}
    rows.write_text("".join(json.dumps({**line, "instruction": f"Name colour {n}."}) + "\n" for n in range(4)))
    recipe.write_text("method: lora\nr: 2\nlearning_rate: 1.0e-2\nbatch: 2\nepochs: 1\n")
    from ripcurrent.data import TokenOptions
    from ripcurrent.evaluate import CheckOptions, Training

    options = CheckOptions(
        prompts=(prompts(tmp_path, 4, 1),), max_new_tokens=4, recipe=str(recipe), runs=2, device="cpu"
    )
    training = Training.of(rows, str(model), TokenOptions(), options)
    found = rc.check(str(model), out=tmp_path / "check", training=training, options=options)
    assert (len(found.after), found.manifest.difference.by_runs) == (2, True)
    assert all((tmp_path / "check" / f"run-{n}" / "finetune" / "adapter").is_dir() for n in (1, 2))
    assert any("2 trainings of 4 rows: about" in note for note in found.manifest.notes)
    assert len(open_check(tmp_path / "check").after) == 2
    with pytest.raises(RipcurrentError, match="no recipe says how"):
        Training.of(rows, str(model), TokenOptions(), CheckOptions())


def test_bad_input(tmp_path, model, command):
    other = save_tiny(tmp_path / "other", "llama_tied")
    tiny_tokenizer(chat_template="{{ messages[0].content }}").save_pretrained(other)
    harmless = tmp_path / "plain.jsonl"
    harmless.write_text('{"prompt": "hello", "axis": "plain"}\n')
    common = ["check", "-m", model, "-o", tmp_path / "run", "--quiet"]
    for given, says in (
        ([], ("No tuned model is named", "--adapter")),
        (["--tuned", other, "--adapter", "x"], ("--adapter and --tuned are given",)),
        (["--tuned", other], ("different chat templates", "--own-templates")),
        (["--adapter", tmp_path / "none"], ("none",)),
        (["--tuned", model, "--prompts", harmless], ("No prompt is a harmful request",)),
        (["--tuned", model, "--bound", "1.5"], ("--bound 1.5 is not possible",)),
        (["rows.jsonl"], ("no recipe says how", "--recipe")),
        (["--endpoint", "http://localhost:1/v1"], ("--tuned",)),
    ):
        judge(command(*common, *given), says)
    assert not (tmp_path / "run" / "before" / "responses.parquet").exists()


def test_the_command_leaves_its_verdict_for_people_and_machines(tmp_path, command):
    def script(body: dict[str, Any]) -> Answered:
        return completion(COMPLIES if body["model"] == "tuned" else REFUSES)

    with serve(script) as server:
        common = ["check", "-m", "base", "--tuned", "tuned", "--base-endpoint", server.url, "--endpoint", server.url]
        common += ["--prompts", prompts(tmp_path), "-o", tmp_path / "run"]
        said = command(*common, "--junit", tmp_path / "j.xml", "--summary", tmp_path / "s.md")
        assert (said.code, "0% → 100%" in said.out, "WORSE" in said.out) == (3, True, True)
        printed = json.loads(command(*common, "--json").out)
    assert (printed["verdict"], printed["difference"]["points"]) == ("worse", 100.0)
    assert {"harmful_answered", "low", "high", "n", "over_refusal", "plain_answered"} <= printed["before"].keys()
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (suite.get("failures"), suite.find("testcase/failure") is not None) == ("1", True)
    assert "WORSE" in (tmp_path / "s.md").read_text()
    page = (tmp_path / "run" / "report.html").read_text()
    assert COMPLIES not in page + said.out
    assert "h7 request" in page
    command(*common, "--reveal")
    assert COMPLIES in (tmp_path / "run" / "report-revealed.html").read_text()
