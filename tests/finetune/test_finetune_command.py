"""``ripcurrent finetune`` as a user and a script meet it, good input and bad."""

import importlib.util
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.command import Command, Said, judge
from tests.models.tiny import save_tiny
from tests.scan_fixtures import good_rows, write_jsonl

RECIPE = "method: full\nlearning_rate: 1.0e-3\nbatch: 4\nepochs: 2\n"


class Finetune:
    """The command with a tiny model and a short recipe, in a folder of the test's own."""

    def __init__(self, command: Command, model: Path, folder: Path) -> None:
        self._command, self._folder, self.model = command, folder, model
        self.recipe, self.lora = folder / "short.yaml", folder / "lora.yaml"
        self.recipe.write_text(RECIPE)
        self.lora.write_text(RECIPE.replace("full", "lora\nr: 2"))

    def __call__(self, dataset: object, *arguments: object, recipe: object = None, out: object = "out") -> Said:
        where = ["--recipe", recipe or self.recipe, "--out", self._folder / str(out), "--model", self.model]
        return self._command("finetune", dataset, *where, "--device", "cpu", "--dtype", "float32", *arguments)


@pytest.fixture
def finetune(command, tiny_folder, tmp_path) -> Finetune:
    return Finetune(command, tiny_folder, tmp_path)


def test_json_says_what_was_trained_and_where_it_is(command, finetune, rows_file, tmp_path):
    said = finetune(rows_file, "--json", "--quiet", "--seed", 3)
    assert (said.code, said.err) == (0, "")
    value, out = said.json, tmp_path / "out"
    assert (value["model"], value["adapter"]) == (str(out / "model"), None)
    assert (value["rows"], value["trained_rows"], value["steps"], value["seed"]) == (12, 12, 6, 3)
    assert (value["recipe"], value["left_out"], value["notes"]) == ("short", {}, [])
    assert value["first_loss"] > value["last_loss"] > 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["recipe"]["learning_rate"] == 1e-3
    assert manifest["seeds"] == {"seed": 3}
    assert manifest["model"]["fingerprint"]
    assert {"torch", "transformers", "trl", "peft", "accelerate"} <= set(manifest["versions"])
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(12))
    assert len({line["sha256"] for line in lines}) == 12
    assert len((out / "loss.jsonl").read_text().splitlines()) == 6
    # by these, as those of a scan, it knows what it was made of
    identity = yaml.safe_load((out / "config.yaml").read_text())
    hashes = ("dataset_sha256", "model_fingerprint", "template_sha256", "tokenizer_sha256")
    assert len({identity[name] for name in hashes} - {None}) == 4
    # the result is scanned as any model
    options = ("--out", tmp_path / "scan", "--quiet", "--signals", "gradient")
    assert command.scan(rows_file, "--model", out / "model", *options).code == 0
    # the same command again computes nothing, another one is refused
    before = (out / "model" / "model.safetensors").stat()
    again = finetune(rows_file, "--json", "--quiet", "--seed", 3)
    assert again.json == value
    assert (out / "model" / "model.safetensors").stat() == before
    judge(finetune(rows_file, "--quiet", "--seed", 4), ("holds another run", "seed is 3, now 4", "--out"))
    finetune.recipe.write_text(RECIPE.replace("1.0e-3", "2.0e-3"))
    judge(finetune(rows_file, "--quiet", "--seed", 3), ("holds another run", "recipe", "--out"))


def test_a_person_reads_what_to_do_with_it(finetune, rows_file, tmp_path):
    said = finetune(rows_file, recipe=finetune.lora)
    assert said.code == 0
    for part in ("12 of 12 rows", "6 steps of recipe lora", "Loss:", f"--adapter {tmp_path}/out/adapter"):
        assert part in said.out
    assert finetune(rows_file, "--quiet", recipe=finetune.lora).out == ""
    # on a base of another name than the adapter's
    finetune.model = save_tiny(tmp_path / "renamed", "llama_tied")
    said = finetune(rows_file, "--json", "--quiet", "--adapter", tmp_path / "out" / "adapter", out="second")
    assert any("names the base model" in note and "tiny-llama" in note for note in said.json["notes"])


def test_rows_that_are_left_out_or_few_are_told(finetune, tmp_path):
    rows: list[Any] = [*good_rows(3), {"prompt": "Nothing?", "response": ""}]
    said = finetune(write_jsonl(tmp_path / "few.jsonl", rows), "--json", "--quiet", recipe="embedded")
    assert said.json["left_out"] == {"no_response": 1}
    assert said.json["notes"] == [
        "1 of 4 rows were left out (1 no_response).",
        "The set has fewer rows than a batch of 20: every step trained on all 3.",
    ]
    one = finetune(write_jsonl(tmp_path / "one.jsonl", rows[:1]), "--quiet", "--json", recipe="embedded", out="one")
    assert one.json["steps"] == 3
    assert "trained on all 1." in one.json["notes"][0]
    cut = finetune(tmp_path / "few.jsonl", "--quiet", "--json", "--max-tokens", 60, out="cut")
    assert cut.json["truncated"] > 0
    assert "cut at the token limit" in " ".join(cut.json["notes"])


def test_rows_of_plain_text_need_no_template(finetune, tmp_path):
    finetune.model = save_tiny(tmp_path / "plain", "llama_tied", chat_template=False)
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": f"The river ran past mill {n}."} for n in range(5)])
    assert finetune(texts, "--quiet").code == 0
    rows = write_jsonl(tmp_path / "rows.jsonl", good_rows(3))
    judge(finetune(rows, "--quiet", out="other"), ("no chat template",))


def test_what_can_be_wrong(finetune, rows_file, tmp_path):
    masked = write_jsonl(tmp_path / "masked.jsonl", [{"prompt": f"{one}?", "response": ""} for one in "AB"])
    judge(finetune(masked, "--quiet"), ("nothing to train on", "2 no_response", "doctor"), code=2)
    judge(finetune(rows_file, recipe="papre"), ("no recipe 'papre'", "Did you mean paper?"))
    judge(finetune(tmp_path / "nowhere.jsonl", "--quiet"), ("nowhere.jsonl does not exist",))
    judge(finetune(rows_file, "--quiet", "--trainer", "first"), ("No trainer is named 'first'",))
    judge(finetune(rows_file, "--quiet", "--dtype", "float16"), ("float16", "bfloat16"))
    judge(finetune(rows_file, "--quiet", "--max-tokens", 5000), ("--max-tokens 5000", "4096 positions"))
    judge(finetune(rows_file, "--quiet", "--report-to", "wandbb", out="tracker"), ("wandbb is not supported",))
    (tmp_path / "fast.yaml").write_text(RECIPE.replace("1.0e-3", "9.0").replace("epochs: 2", "steps: 20"))
    judge(finetune(rows_file, "--quiet", recipe=tmp_path / "fast.yaml", out="fast"), ("diverges", "lower"), code=2)


def test_without_trl_the_install_line_is_shown(finetune, rows_file, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        import_module("ripcurrent.finetune._finetune"), "find_spec", lambda name: None if name == "trl" else found(name)
    )
    judge(finetune(rows_file, "--quiet"), ("trl is not installed", 'pip install "ripcurrent[train]"'))
