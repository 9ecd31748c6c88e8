"""Models, adapters, anchors, datasets, run folders and extras that cannot be used: one clear message each."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import metadata
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import ExitCode, MissingExtraError
from ripcurrent.evaluate import JudgeSettings, evaluate, find_judge
from ripcurrent.scan import Execution, scan
from tests.cli.command import Said, judge
from tests.models.tiny import save_tiny
from tests.scan_fixtures import EXACT, anchor_lines, good_rows, write_jsonl


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def test_model_without_a_chat_template(command, rows_file, tmp_path, out):
    model = save_tiny(tmp_path / "base-model", "llama_tied", chat_template=False)
    says = ("base-model has no chat template", "instruct")
    command.scan_fails(rows_file, "--model", model, "--out", out, says=says)
    assert not out.exists()


def test_model_that_is_not_found_without_network(rows_file, tmp_path, out):
    name = "no/such-model-anywhere"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    arguments = [sys.executable, "-m", "ripcurrent", "scan", rows_file, "--model", name, "--out", out, "--quiet"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    judge(Said(done.returncode, done.stdout, done.stderr), (name,))
    assert not out.exists()


LINES = anchor_lines()
LONG = [{**line, "prompt": "word " * 2_000} if at == 6 else line for at, line in enumerate(LINES)]


def test_anchors_of_which_one_is_too_long(command, rows_file, tmp_path, out):
    path = write_jsonl(tmp_path / "mine.jsonl", LONG)
    says = ("Anchor 2 of safe_1 in mine.jsonl", "longer than --max-tokens")
    command.scan_fails(rows_file, "--anchors", path, "--out", out, says=says)
    judge(command("anchors", "check", path, *command._tiny, "--quiet"), says)


def test_anchors_that_do_not_separate_on_this_model(rows_file, tmp_path, command, out):
    # the same answers on both sides, each once: nothing to tell apart
    answers = ["Let me think about it.", "That depends on it.", "We can talk of it.", "Such a thing is old."]
    lines = [
        {**line, "response": answers[number % 4], "prompt": f"{line['prompt']} ({number})"}
        for number, line in enumerate(LINES)
    ]
    path = write_jsonl(tmp_path / "same.jsonl", lines)
    scan = ("scan", rows_file, *command._tiny, "--anchors", path, "--out", out, "--quiet")
    says = ("same.jsonl do not separate harm from safety", "AUROC", "below 0.7", "--no-anchor-check")
    judge(command(*scan), says, code=2)
    assert not (out / "scores.parquet").exists()
    assert command(*scan, "--no-anchor-check").code == 0


def test_a_map_names_the_columns(command, tmp_path, out):
    (tmp_path / "rows.csv").write_text("ask,reply\na,b\n")
    command.scan_fails(tmp_path / "rows.csv", "--map", "prompt", "--out", out, says=("prompt", "="))
    assert not out.exists()
    good = command.scan(tmp_path / "rows.csv", "--map", "prompt=ask", "--map", "response=reply", "--out", out, "--json")
    assert (good.code, good.json["scored"]) == (0, 1)


def test_a_row_of_100_000_tokens_is_scored_on_its_head(command, tmp_path, out):
    rows = [*good_rows(2), {"prompt": "Go on.", "response": "a b " * 50_000}, {"prompt": "c " * 9_000, "response": "d"}]
    said = command.scan(write_jsonl(tmp_path / "rows.jsonl", rows), "--out", out, "--json")
    assert (said.code, said.json["unscored"]) == (0, {"too_long": 1})
    table = pq.read_table(out / "scores.parquet")
    assert table["truncated"].to_pylist() == [False, False, True, False]
    assert table["prompt_tokens"][2].as_py() + table["response_tokens"][2].as_py() == 1024


def test_unwritable_out(command, rows_file, tmp_path):
    (tmp_path / "file").write_text("")
    command.scan_fails(rows_file, "--out", tmp_path / "file", says=("file is a file, not a folder", "--out"))
    says = ("cannot be written", "Not a directory", "--out")
    command.scan_fails(rows_file, "--out", tmp_path / "file" / "out", says=says)
    if Path("/proc/self").exists():
        command.scan_fails(rows_file, "--out", "/proc/ripcurrent", says=("/proc/ripcurrent cannot be written",))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing past ``size`` bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_no_room_at_any_stage_is_told_and_the_same_command_goes_on_later(command, tmp_path):
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(60))
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert command.scan(dataset, "--out", whole, "--quiet").code == 0
    sizes = {path.name: path.stat().st_size for path in whole.rglob("*") if path.is_file()}
    written = ("config.yaml", "shard-00000.parquet", "scores.parquet", "manifest.json", "report.html")
    named = set()
    for size in sorted(sizes[name] * 9 // 10 for name in written):
        too_large = next(name for name in written if sizes[name] > size)
        with files_of_at_most(size):
            command.scan_fails(dataset, "--out", out, says=(str(out), too_large, "written", "File too large", "space"))
        named.add(too_large)
        assert not list(out.rglob("*.part"))
        assert not list(out.rglob(too_large))
    assert {"config.yaml", "shard-00000.parquet", "report.html"} <= named
    assert command.scan(dataset, "--out", out, "--quiet").code == 0
    assert (out / "scores.parquet").read_bytes() == (whole / "scores.parquet").read_bytes()


def test_no_room_for_the_directions(command, rows_file, tmp_path, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    with files_of_at_most(20_000):
        command.scan_fails(rows_file, "--out", tmp_path / "out", says=("directions", "RIPCURRENT_CACHE"))
    assert not list((tmp_path / "cache").rglob("*.part"))
    assert command.scan(rows_file, "--out", tmp_path / "out", "--quiet").code == 0


def test_the_line_that_installs_it(tmp_path, rows_file, anchors_file, tiny_folder, monkeypatch):
    for module in ("ray", "openai"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "ray.data", raising=False)
    endpoint, out = "http://localhost:9/v1", tmp_path / "out"
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "Why?"}])
    judged = JudgeSettings(endpoint=endpoint, model="judge", cache=tmp_path)
    scanned = {"model": str(tiny_folder), "anchors": str(anchors_file), "execution": Execution(executor="ray")}
    for package, extra, asked in (
        ("openai", "endpoint", lambda: evaluate("served", prompts=[prompts], out=out, endpoint=endpoint)),
        ("openai", "endpoint", lambda: find_judge("rubric", judged)),
        ("ray[data]", "ray", lambda: scan(rows_file, tmp_path / "scan", **scanned, **EXACT)),
    ):
        with pytest.raises(MissingExtraError) as caught:
            asked()
        assert caught.value.message == f"{package} is not installed, and this needs it."
        assert caught.value.hint == f'Install it with: pip install "ripcurrent[{extra}]"'
        assert caught.value.code is ExitCode.USAGE
        assert extra in (metadata("ripcurrent").get_all("Provides-Extra") or [])
    assert not out.exists()
