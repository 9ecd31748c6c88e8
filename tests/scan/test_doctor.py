"""What doctor finds: the environment, a dataset with bad rows, and the shown row's loss mask."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from ripcurrent.cli import run
from ripcurrent.data import LossOn, Message, Row, encode
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import cache_folder, load_model
from ripcurrent.progress import SilentProgress
from ripcurrent.scan import SignalStage, _environment, doctor
from ripcurrent.scan._doctor import SAMPLE_ROWS
from ripcurrent.scan._rendered_row import rendered_row
from ripcurrent.scan._signal_stage import PreparedRow
from tests.models.tiny import save_tiny, tiny_tokenizer
from tests.scan.doctor_rows import WORDS, lesson, lessons, model, write_rows

__all__ = ["lessons", "model"]
"""Fixtures."""


def test_environment_names_versions_device_and_type() -> None:
    found = {finding.name: finding for finding in _environment.environment("cpu", None)}

    assert found["torch"].value == torch.__version__
    assert found["device"].value == "cpu, as asked for"
    assert found["compute type"].value.startswith(("bfloat16", "float32"))
    assert all(finding.value for finding in found.values())


def test_a_device_that_is_not_here_is_an_error() -> None:
    with pytest.raises(RipcurrentError, match="no device 'toaster'"):
        _environment.environment("toaster", None)


def test_a_slower_type_than_the_native_one_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def native_bfloat16(name: str | None, device: torch.device) -> torch.dtype:
        return torch.bfloat16 if name is None else torch.float32

    monkeypatch.setattr(_environment, "choose_dtype", native_bfloat16)

    found = {finding.name: finding for finding in _environment.environment("cpu", "float32")}

    assert "--dtype" in (found["compute type"].advice or "")


def test_a_missing_embedded_model_is_a_warning_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Path:
        raise RipcurrentError("The embedded model is not installed.", "Install it with: pip install it")

    monkeypatch.setattr(_environment, "embedded_gguf", absent)

    found = {finding.name: finding for finding in _environment.environment("cpu", None)}

    assert not found["embedded model"].ok
    assert found["embedded model"].advice == "Install it with: pip install it"


def test_a_cache_that_cannot_be_made_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "file" / "cache"))

    found = {finding.name: finding for finding in _environment.environment("cpu", None)}

    assert "cannot be written" in found["cache"].value
    assert "RIPCURRENT_CACHE" in (found["cache"].advice or "")


def test_a_file_of_the_cache_that_goes_meanwhile_counts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").write_bytes(b"x" * 3_000_000)
    (tmp_path / "safe.safetensors.part").write_bytes(b"x" * 5_000_000)
    usual = Path.is_file

    def gone_then(path: Path) -> bool:
        found = usual(path)
        if path.suffix == ".part" and found:
            path.unlink()
        return found

    monkeypatch.setattr(Path, "is_file", gone_then)
    assert ", 3 MB; " in _environment._cache(tmp_path).value


@pytest.mark.parametrize("count", [1, 511, 512, 513, 5000])
def test_the_sample_is_spread_over_the_whole_dataset(
    count: int, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": "Boats lie at the pier." if number % 10 != 3 else ""} for number in range(count)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    found: list[int] = []

    class Asked(SilentProgress):
        def step(self, name: str) -> None:
            if name.startswith("timing"):
                raise KeyboardInterrupt

    real = SignalStage.prepare

    def prepare(stage: SignalStage, items: Iterable[Row]) -> Iterator[PreparedRow]:
        for row in real(stage, items):
            found.append(row.row.index)
            yield row

    monkeypatch.setattr(SignalStage, "prepare", prepare)
    with pytest.raises(KeyboardInterrupt):
        doctor(path, model=str(model), progress=Asked(), signals="representation")
    assert len(found) == min(count, SAMPLE_ROWS)
    assert found == sorted(set(found))
    assert np.diff([0, *found, count]).max() <= 2 * max(1, count // SAMPLE_ROWS) + 2


@pytest.mark.parametrize(("loss_on", "spans"), [("all", ["It is é and 日本.", "Fifty-six."]), ("last", ["Fifty-six."])])
def test_the_shown_row_marks_exactly_the_text_that_bears_loss(loss_on: LossOn, spans: list[str]) -> None:
    tokenizer = tiny_tokenizer()
    messages = (
        Message("system", "Answer in one line."),
        Message("user", "Say é."),
        Message("assistant", "It is é and 日本."),
        Message("user", "What is seven times eight?"),
        Message("assistant", "Fifty-six."),
    )
    row = Row(4, "a", messages, None, {})
    encoded = encode(row, tokenizer, loss_on=loss_on)

    shown = rendered_row(row, encoded, tokenizer).to_json()

    marked = [shown["text"][start:end] for start, end in shown["loss_spans"]]
    assert marked == [f"{span}<|im_end|>\n" for span in spans]
    assert "".join(marked) == tokenizer.decode(encoded.tokens[encoded.loss_mask])
    assert shown["text"] == tokenizer.decode(encoded.tokens)


def test_a_document_is_shown_whole_where_the_tokenizer_appends_an_end() -> None:
    tokenizer = tiny_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", end)]
    )
    row = Row(0, "a", (), "Boats lie at the pier.", {})
    encoded = encode(row, tokenizer)
    assert encoded.tokens[-1] == end
    shown = rendered_row(row, encoded, tokenizer).to_json()
    assert shown["text"] == "Boats lie at the pier."


def test_the_cache_of_files_is_no_used_memory_of_a_container(tmp_path: Path) -> None:
    assert _environment._container_memory(tmp_path) is None
    (tmp_path / "memory.max").write_text("16000\n")
    (tmp_path / "memory.current").write_text("13000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 12000\ninactive_file 9000\n")
    assert _environment._container_memory(tmp_path) == 12000
    (tmp_path / "memory.max").write_text("max\n")
    assert _environment._container_memory(tmp_path) is None


def test_a_cut_row_is_shown_up_to_its_last_token_and_long_text_is_clipped() -> None:
    tokenizer = tiny_tokenizer()
    row = Row(0, "a", (Message("user", "Count."), Message("assistant", "one two three " * 2000)), None, {})
    encoded = encode(row, tokenizer, max_tokens=4000)

    shown = rendered_row(row, encoded, tokenizer)

    assert shown.truncated
    assert shown.parts[-1].bears_loss
    assert "[…]" in shown.parts[-1].text
    assert len(shown.parts[-1].text) < 700
    assert "<|im_end|>" not in shown.parts[-1].text


def test_a_dataset_with_bad_rows_is_counted_and_forecast(lessons: Path, model: Path) -> None:
    found = doctor(lessons, model=str(model))

    dataset = found.dataset
    assert dataset is not None
    assert (dataset.rows, dataset.sampled, dataset.container, dataset.format) == (60, 60, "jsonl", "prompt-response")
    assert sum(dataset.unreadable.values()) == 2
    assert dataset.sample_unusable == dataset.unreadable
    assert dataset.first_unusable == {"no_response": 7}
    assert dataset.sample_unread == 0
    assert dataset.sample_row is not None
    assert [estimate.signals for estimate in found.estimates] == ["representation", "all"]
    assert dataset.mean_tokens is not None
    for estimate in found.estimates:
        parts = estimate.loading_seconds + estimate.anchor_seconds + estimate.row_seconds
        assert estimate.seconds == pytest.approx(parts)
        assert estimate.row_seconds == pytest.approx(58 * dataset.mean_tokens / estimate.tokens_per_second)
        assert estimate.peak_memory_bytes > 0
    assert any(finding.name == "memory for the scan" for finding in found.environment)


def test_a_dataset_without_a_usable_row_has_no_forecast(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "empty.jsonl", [{"prompt": "Say nothing.", "response": ""}] * 5)

    assert run(["doctor", str(path), "--model", str(model)]) == 0

    shown = capsys.readouterr().out
    assert "5 no_response (first: row 0)" in shown
    assert "No row of these could be scored" in shown


def test_tool_calls_and_reasoning_that_are_not_read_are_counted(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [lesson(number) | {"tools": [{"name": "times"}] if number < 3 else []} for number in range(8)]
    path = write_rows(tmp_path / "tools.jsonl", rows)

    assert run(["doctor", str(path), "--model", str(model), "--signals", "representation"]) == 0

    assert "3 of the sampled rows have tool calls or reasoning, which are not read" in capsys.readouterr().out


def test_the_terminal_marks_the_loss_where_there_is_no_colour(
    lessons: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", str(lessons), "--model", str(model), "--signals", "representation"]) == 0

    shown = capsys.readouterr().out
    start, end = shown.index("assistant\n⟦"), shown.index("<|im_end|>\n⟧")
    assert start < end
    assert "representations alone: about" in shown
    assert "few timed batches" in shown


def test_json_is_one_object(lessons: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["doctor", str(lessons), "--model", str(model), "--signals", "representation", "--json"]
    assert run(arguments) == 0

    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"environment", "model", "dataset", "estimates"}
    row = found["dataset"]["sample_row"]
    assert next(row["text"][start:end] for start, end in row["loss_spans"]).endswith("<|im_end|>\n")


def test_without_a_dataset_the_environment_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0

    shown = capsys.readouterr().out
    assert "compute type" in shown
    assert "Dataset" not in shown


def test_a_model_alone_is_described(model: Path) -> None:
    found = doctor(model=str(model))

    assert found.model is not None
    assert found.model.architecture == "llama"
    assert found.dataset is None


def test_rows_longer_than_the_model_has_positions_are_refused_as_a_scan_does(tmp_path: Path, lessons: Path) -> None:
    short = save_tiny(tmp_path / "short", "gpt2")

    with pytest.raises(RipcurrentError, match="more than the 512 positions") as caught:
        doctor(lessons, model=str(short))

    assert "--max-tokens 512" in caught.value.hint
    assert doctor(model=str(short)).model is not None


def test_a_batch_is_not_padded_beyond_the_last_position(tmp_path: Path, lessons: Path) -> None:
    odd = save_tiny(tmp_path / "odd", "llama_tied")
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 301}))

    with pytest.raises(RipcurrentError, match=r"the 301 positions .*, of which batches use 300") as caught:
        doctor(lessons, model=str(odd), max_tokens=301)

    assert "--max-tokens 300" in caught.value.hint
    assert doctor(lessons, model=str(odd), max_tokens=300).model is not None


@pytest.mark.parametrize(
    ("kind", "rope"),
    [
        ("phi3", {"rope_type": "longrope", "long_factor": [8.0] * 4, "short_factor": [1.0] * 4}),
        ("llama_tied", {"rope_type": "dynamic", "factor": 4.0}),
    ],
)
def test_positions_that_depend_on_the_longest_row_of_a_batch_are_refused(
    kind: str, rope: dict[str, Any], tmp_path: Path, lessons: Path
) -> None:
    model = save_tiny(tmp_path / "model", kind)
    config = json.loads((model / "config.json").read_text())
    config["rope_parameters"] = {**rope, "rope_theta": 10000.0, "original_max_position_embeddings": 300}
    (model / "config.json").write_text(json.dumps({**config, "original_max_position_embeddings": 300}))

    with pytest.raises(RipcurrentError, match=r"Past 300 tokens .* would depend on the rows beside it") as caught:
        doctor(lessons, model=str(model))

    assert "--max-tokens 300" in caught.value.hint
    assert doctor(lessons, model=str(model), max_tokens=300).model is not None


@pytest.mark.parametrize("arguments", [["missing.jsonl"], ["--model", "missing-folder/model"], ["--signals", "louder"]])
def test_what_a_scan_would_refuse_ends_with_one(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", *arguments]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error:" in captured.err


ESTIMATE = import_module("ripcurrent.scan._estimate")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Lengths of the rows of every batch that is computed."""
    batches: list[list[int]] = []
    real = SignalStage.compute

    def compute(stage: SignalStage, prepared: Any) -> Any:
        batches.append([sum(len(piece.tokens) for piece in row.pieces) for row in prepared])
        return real(stage, prepared)

    monkeypatch.setattr(SignalStage, "compute", compute)
    return batches


@pytest.mark.parametrize("signals", ["representation", "gradient"])
def test_thirds_of_the_lengths_are_timed_after_the_longest_rows(
    signals: str, tmp_path: Path, model: Path, computed: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(ESTIMATE.time, "perf_counter", lambda: float(next(seconds)))
    rows = [{"text": " ".join(WORDS * (1 + 3 * (number // 10)))} for number in range(30)]
    (estimate,) = doctor(
        write_rows(tmp_path / "rows.jsonl", rows), model=str(model), signals=signals, token_budget=64
    ).estimates
    warm, *timed = computed
    lengths = sorted({length for batch in timed for length in batch})
    assert len(timed) == 3
    assert set(warm) == {lengths[-1]}
    assert [set(batch) for batch in timed] == [{length} for length in lengths]
    # every third takes one second for the rows that were timed, so ten rows take ten of it for each
    expected = sum(10 / len(batch) for batch in timed)
    assert estimate.row_seconds == pytest.approx(expected)
    assert (estimate.probed_rows, estimate.probed_tokens) == (sum(map(len, timed)), sum(map(sum, timed)))


def test_one_direction_is_formed_and_the_others_are_reckoned_from_it(
    lessons: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    formed: list[Any] = []
    real = ESTIMATE.anchor_directions

    def counted(*given: Any) -> Iterator[Any]:
        for direction in real(*given):
            formed.append(direction)
            yield direction

    monkeypatch.setattr(ESTIMATE, "anchor_directions", counted)
    (first,) = doctor(lessons, model=str(model), signals="gradient").estimates
    assert len(formed) == 1
    assert first.anchor_seconds > 0
    # nothing is left behind
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    monkeypatch.setattr(ESTIMATE, "directions_are_cached", lambda *_: True)
    (cached,) = doctor(lessons, model=str(model), signals="gradient").estimates
    assert cached.anchor_seconds == pytest.approx(0, abs=1e-3)
    assert len(formed) == 1


@pytest.mark.parametrize("options", [{}, {"signals": "representation"}])
def test_a_cap_is_planned_for_as_a_scan_does(lessons: Path, model: Path, options: dict[str, Any]) -> None:
    found = doctor(lessons, model=str(model), memory="64GB", **options)
    (estimate,) = found.estimates
    assert estimate.signals == options.get("signals", "all")
    assert next(finding for finding in found.environment if finding.name == "memory for the scan").ok
    with pytest.raises(RipcurrentError, match="--memory 50 MB") as caught:
        doctor(lessons, model=str(model), memory="50MB", **options)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("patched", "memory", "value", "advice"),
    [
        ((ESTIMATE, "process_peak", lambda: 128 * 10**9), "64GB", "more than --memory 64.0 GB", "RIPCURRENT_CACHE"),
        ((import_module("ripcurrent.scan._doctor"), "free_memory", lambda _: 1000), None, "are free", "--max-tokens"),
    ],
)
def test_a_scan_that_does_not_fit_is_a_warning(
    patched: tuple[Any, str, Any],
    memory: str | None,
    value: str,
    advice: str,
    lessons: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(*patched)
    found = doctor(lessons, model=str(model), signals="representation", memory=memory)
    warning = next(finding for finding in found.environment if finding.name == "memory for the scan")
    assert value in warning.value
    assert advice in (warning.advice or "")


def test_documents_are_timed_by_windows(tmp_path: Path, model: Path) -> None:
    rows = [{"text": " ".join(WORDS * (1 + 20 * number))} for number in range(8)]
    path = write_rows(tmp_path / "documents.jsonl", rows)
    options: dict[str, Any] = {"model": str(model), "max_tokens": 512, "signals": "representation"}
    found = doctor(path, windows=True, **options)
    dataset = found.dataset
    assert dataset is not None
    lengths = [len(tiny_tokenizer()(row["text"])["input_ids"]) for row in rows]
    assert max(lengths) > 1500
    assert dataset.mean_tokens == pytest.approx(np.mean(lengths))
    assert dataset.longest_tokens is not None
    assert 400 <= dataset.longest_tokens <= 512
    assert dataset.truncated_share == 0
    (estimate,) = found.estimates
    assert estimate.row_seconds == pytest.approx(sum(lengths) / estimate.tokens_per_second, rel=0.02)
    (cut,) = doctor(path, **options).estimates
    assert cut.row_seconds == pytest.approx(sum(min(512, length) for length in lengths) / cut.tokens_per_second)


def test_options_that_do_not_go_together_are_refused(lessons: Path, model: Path) -> None:
    with pytest.raises(RipcurrentError, match="--windows is for"):
        doctor(lessons, model=str(model), windows=True)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt2", {"max_tokens": 512}),
        ("llama_untied", {"scope": "linear", "signals": "gradient"}),
        ("qwen2", {"scope": "lora", "signals": "gradient", "dtype": "float32"}),
    ],
)
def test_every_kind_of_layer_and_scope_can_be_timed(
    kind: str, options: dict[str, Any], tmp_path: Path, lessons: Path
) -> None:
    found = doctor(lessons, model=str(save_tiny(tmp_path / "model", kind)), limit=12, **options)
    assert found.estimates[-1].signals == options.get("signals", "all")
    assert found.estimates[-1].tokens_per_second > 0


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.real_data
@pytest.mark.parametrize("cached", [False, True], ids=["directions computed", "directions cached"])
def test_the_memory_forecast_is_near_a_real_scans_peak(
    cached: bool, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the user's cache has the model as it is read, whose making would else be in doctor's peak and not in the scan's
    load_model("embedded")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "gguf").symlink_to(cache_folder() / "gguf")
    monkeypatch.setenv("RIPCURRENT_CACHE", str(cache))
    rows = [str(data_folder / "rows" / "alpaca_en_demo.json"), "--limit", "40"]
    if cached:
        in_a_process("scan", *rows[:1], "--limit", "1", "--out", str(tmp_path / "first"))
    forecast = in_a_process("doctor", *rows)["estimates"][-1]["peak_memory_bytes"]
    in_a_process("scan", *rows, "--out", str(tmp_path / "run"))
    peak = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["peak_memory_bytes"]
    print(f"forecast {forecast / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, {forecast / peak:.3f}")
    assert forecast / peak == pytest.approx(1, abs=0.15)


def in_a_process(*arguments: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    command = [sys.executable, "-m", "ripcurrent", *arguments, "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found
