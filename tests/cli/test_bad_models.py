"""Models, adapters and anchors that cannot be used: one clear message each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import Command, Said, judge
from tests.models.test_adapter import save_adapter
from tests.models.tiny import save_tiny, tiny_model, write_tiny_gguf
from tests.tiny_scan import anchor_lines, write_jsonl


def test_model_without_a_chat_template(command: Command, rows_file: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "base-model", "llama_tied", chat_template=False)
    command.scan_fails(
        rows_file, "--model", model, "--out", tmp_path / "out", says=("base-model has no chat template", "instruct")
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--model", "./no-such-folder", ("There is no file", "./no-such-folder")),
        ("--model", "/nowhere/no.gguf", ("There is no file", "/nowhere/no.gguf")),
        ("--adapter", str(Path(__file__).parent), ("cli",)),
        ("--device", "gpu", ("gpu", "cpu")),
    ],
)
def test_model_adapter_or_device_that_is_not_there(
    command: Command, rows_file: Path, tmp_path: Path, option: str, value: str, says: tuple[str, ...]
) -> None:
    command.scan_fails(rows_file, option, value, "--out", tmp_path / "out", says=says)


def test_model_that_is_not_found_without_network(rows_file: Path, tmp_path: Path) -> None:
    name = "no/such-model-anywhere"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    program = Path(sys.executable).with_name("ripcurrent")
    arguments = [program, "scan", rows_file, "--model", name, "--out", tmp_path / "out", "--quiet"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    judge(Said(done.returncode, done.stdout, done.stderr), (name,))
    assert not (tmp_path / "out").exists()


def test_truncated_gguf(command: Command, rows_file: Path, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    command.scan_fails(rows_file, "--model", path, "--out", tmp_path / "out", says=("tiny.gguf",))
    path.write_bytes(b"not a model")
    command.scan_fails(rows_file, "--model", path, "--out", tmp_path / "out", says=("tiny.gguf",))


def test_a_whole_gguf_is_scanned(command: Command, rows_file: Path, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tiny_model("llama_tied"))
    said = command.scan(rows_file, "--model", path, "--out", tmp_path / "out", "--json")
    assert (said.code, said.json["scored"]) == (0, 12)


@pytest.mark.parametrize("scope", ["all", "lora"])
def test_adapter_of_another_model(command: Command, rows_file: Path, tmp_path: Path, scope: str) -> None:
    adapter = save_adapter(tmp_path / "other-adapter", "llama_untied")
    command.scan_fails(
        rows_file, "--adapter", adapter, "--scope", scope, "--out", tmp_path / "out",
        says=("The adapter", "other-adapter does not fit", "trained on"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, ("There is no anchor file", "second_family")),
        (json.dumps(anchor_lines()[0]) + "\n{broken", ("line 2 is not JSON",)),
        ("\n".join(json.dumps(line) for line in anchor_lines()[:4]), ("no safe set",)),
        ("\n".join(json.dumps(line) for line in anchor_lines(3)), ("has 3 anchors; at least 4",)),
    ],
    ids=["missing", "broken", "no safe set", "too few"],
)
def test_anchor_files(command: Command, rows_file: Path, tmp_path: Path, content: str | None, says: tuple[str]) -> None:
    path = tmp_path / "mine.jsonl"
    if content is not None:
        path.write_text(content)
    command.scan_fails(rows_file, "--anchors", path, "--out", tmp_path / "out", says=says)
    judge(command("anchors", "check", path, "--quiet"), says)
    assert not (tmp_path / "out").exists()


def test_anchors_that_do_not_separate_on_this_model(rows_file: Path, tmp_path: Path, command: Command) -> None:
    lines = anchor_lines()
    # the same answers on both sides, each once: nothing to tell apart
    answers = ["Let me think about it", "That depends on it", "We can talk of it", "Such a thing is old"]
    for number, line in enumerate(lines):
        line["response"] = f"{answers[number % 4]}."
        line["prompt"] = f"{line['prompt']} ({number})"
    path = write_jsonl(tmp_path / "same.jsonl", lines)
    tiny = [part for part in command._tiny if part]
    said = command("scan", rows_file, *tiny, "--anchors", path, "--out", tmp_path / "out", "--quiet")
    judge(said, ("same.jsonl do not separate harm from safety", "AUROC", "below 0.7", "--no-anchor-check"), code=2)
    assert not (tmp_path / "out" / "scores.parquet").exists()
    again = command(
        "scan", rows_file, *tiny, "--anchors", path, "--out", tmp_path / "out", "--quiet", "--no-anchor-check"
    )
    assert again.code == 0


def test_an_anchor_that_the_template_does_not_take_is_named(command: Command, rows_file: Path, tmp_path: Path) -> None:
    lines = anchor_lines()
    lines[6]["prompt"] = "word " * 2_000
    path = write_jsonl(tmp_path / "mine.jsonl", lines)
    command.scan_fails(
        rows_file, "--anchors", path, "--out", tmp_path / "out",
        says=("Anchor 2 of safe_1 in mine.jsonl", "too_long"),
    )  # fmt: skip
