"""What doctor finds: the environment, a dataset with bad rows, the shown row's loss mask, and the forecast."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.anchors import load_anchors
from ripcurrent.api import _anchor_passes, _environment, _probe
from ripcurrent.api._anchors import encode_for_gradient
from ripcurrent.api._doctor import SAMPLE_ROWS, _spread_sample, diagnose, rendered_row
from ripcurrent.api._options import ScanOptions
from ripcurrent.api._probe_directions import LikeDirections
from ripcurrent.cli import run
from ripcurrent.data import LossOn, Message, Row, encode
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import cache_folder, load_model
from ripcurrent.signals import DENSE, GradientPass, mean_gradient, set_direction, stack_directions
from tests.models.tiny import save_tiny, tiny_tokenizer

WORDS = ["the", "old", "mill", "turned", "slowly", "while", "children", "counted", "boats", "and", "bread", "baked"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", "llama_tied")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lesson(number: int) -> dict[str, Any]:
    return {"prompt": f"Say number {number}.", "response": " ".join(WORDS[: 1 + number % len(WORDS)])}


@pytest.fixture
def lessons(tmp_path: Path) -> Path:
    rows = [lesson(number) for number in range(60)]
    rows[7] = {"prompt": "Say nothing.", "response": ""}
    rows[31] = {"prompt": "Say null.", "response": None}
    return write_rows(tmp_path / "lessons.jsonl", rows)


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


def test_the_rate_counts_measured_batches_alone(lessons: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(_probe.time, "perf_counter", lambda: float(next(seconds)))
    batches: list[int] = []
    run_stage = _probe.SignalStage.compute

    def counted(stage: Any, rows: Any) -> Any:
        batches.append(len(rows))
        return run_stage(stage, rows)

    monkeypatch.setattr(_probe.SignalStage, "compute", counted)

    (estimate,) = diagnose(lessons, model=str(model), signals="representation").estimates

    # every batch takes one tick of that clock; the first rows only warm up
    assert estimate.probed_rows == sum(batches[1:])
    assert estimate.tokens_per_second == pytest.approx(estimate.probed_tokens / (len(batches) - 1))


def test_batches_are_probed_over_the_whole_sample_and_the_largest_first() -> None:
    lengths = [20] * 300 + [250] * 4 + [100] * 207 + [400]
    rows: Any = list(range(512))
    load = _probe.Load(rows, lengths, 512.0, float(sum(lengths)), 0.0, 512, lambda: [])
    first, batches = _probe.chosen_batches(load, 512, 512)
    # the longest, and those whose attention scores are kept for the backward pass and are the most
    assert [lengths[row] for row in first] == [400, *[250] * 4]  # type: ignore[call-overload]
    probed = [lengths[row] for batch in batches for row in batch]  # type: ignore[call-overload]
    assert {20, 100} <= set(probed)

    long = _probe.Load(rows[:4], [500, 450, 300, 300], 4.0, 1550.0, 0.0, 256, lambda: [])
    assert _probe.chosen_batches(long, 512, 256)[0] == [0, 1]


def test_a_slow_machine_ends_the_probe_early(lessons: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.count(step=3600)
    monkeypatch.setattr(_probe.time, "perf_counter", lambda: float(next(hours)))

    (estimate,) = diagnose(lessons, model=str(model), signals="representation").estimates

    # one batch and no more
    assert estimate.tokens_per_second == pytest.approx(estimate.probed_tokens / 3600)
    assert estimate.probed_tokens <= 1024


@pytest.mark.parametrize("options", [{}, {"signals": "representation"}])
def test_a_budget_is_planned_as_a_scan_does(lessons: Path, model: Path, options: dict[str, Any]) -> None:
    found = diagnose(lessons, model=str(model), memory="64GB", **options)

    (estimate,) = found.estimates
    assert estimate.signals == options.get("signals", "all")
    assert estimate.planning_seconds > 0
    parts = estimate.loading_seconds + estimate.planning_seconds + estimate.anchor_seconds + estimate.row_seconds
    assert estimate.seconds == pytest.approx(parts)
    fits = next(finding for finding in found.environment if finding.name == "memory for the scan")
    assert fits.ok


def test_a_budget_too_small_ends_as_a_scan_does_and_leaves_nothing(
    lessons: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))

    with pytest.raises(RipcurrentError, match="--memory 50 MB") as caught:
        diagnose(lessons, model=str(model), memory="50MB")

    assert caught.value.code == 2
    assert not list((tmp_path / "cache").iterdir())


def test_directions_above_a_budget_are_a_warning(lessons: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe, "process_peak", lambda: 2 * 64 * 10**9)

    found = diagnose(lessons, model=str(model), memory="64GB")

    warning = next(finding for finding in found.environment if finding.name == "memory for the scan")
    assert "more than --memory 64.0 GB" in warning.value
    assert "RIPCURRENT_CACHE" in (warning.advice or "")


def test_a_prefilter_takes_a_cheap_pass_and_a_share_of_the_other(
    lessons: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # every batch of every stage takes one second
    seconds = itertools.count()
    monkeypatch.setattr(_probe.time, "perf_counter", lambda: float(next(seconds)))

    alone, both = diagnose(lessons, model=str(model), prefilter="25%", prefilter_sample=100).estimates
    few = diagnose(lessons, model=str(model), prefilter="25%", prefilter_sample=100, limit=12).estimates

    # the sample of 100 is all 58 rows, so nothing is saved
    assert [one.signals for one in (alone, both)] == [one.signals for one in few] == ["representation", "all"]
    assert both.row_seconds == pytest.approx(2 * alone.row_seconds)

    load = _probe.Load([], [], 5000.0, 5000.0 * 20, 0.0, 256, lambda: [])
    options = ScanOptions(prefilter=0.1, prefilter_sample=500)
    deep, cheap = replace(both, tokens_per_second=10.0), replace(alone, tokens_per_second=40.0)
    found = _probe._of_two_passes(deep, cheap, load, options)
    # a tenth is picked, and a tenth of the rest drawn
    assert found.row_seconds == pytest.approx(100_000 / 40 + 0.19 * 100_000 / 10)
    assert found.seconds == pytest.approx(both.seconds - both.row_seconds + found.row_seconds)


def test_anchors_of_their_own_take_further_passes(lessons: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(_probe.time, "perf_counter", lambda: float(next(seconds)))
    passes = [_anchor_passes.AnchorPass(range(start, min(start + 7, 60)), DENSE) for start in range(0, 60, 7)]
    monkeypatch.setattr(_probe, "anchor_passes", lambda gradient_pass, rows: passes)
    held: list[int] = []
    form = _probe.own_directions

    def counted(*arguments: Any) -> Any:
        found = form(*arguments)
        held.append(found.count)
        return found

    monkeypatch.setattr(_probe, "own_directions", counted)

    (usual,) = diagnose(lessons, model=str(model), signals="gradient").estimates
    (further,) = diagnose(lessons, model=str(model), signals="gradient", per_anchor=True).estimates

    assert held == [7]
    # 60 anchors in groups of 7, and a second to form each group's directions
    assert further.row_seconds == pytest.approx(usual.row_seconds + 9 * (usual.row_seconds + 1))
    assert further.seconds == pytest.approx(usual.seconds + 9 * (usual.row_seconds + 1))


def test_documents_are_probed_by_windows(tmp_path: Path, model: Path) -> None:
    rows = [{"text": " ".join(WORDS * (1 + 20 * number))} for number in range(8)]
    path = write_rows(tmp_path / "documents.jsonl", rows)
    options: dict[str, Any] = {"model": str(model), "max_tokens": 512, "signals": "representation"}

    found = diagnose(path, windows=True, **options)

    dataset = found.dataset
    assert dataset is not None
    lengths = [len(tiny_tokenizer()(row["text"])["input_ids"]) for row in rows]
    assert max(lengths) > 1500
    assert dataset.mean_tokens == pytest.approx(np.mean(lengths))
    assert dataset.longest_tokens is not None
    assert 400 <= dataset.longest_tokens <= 512
    assert dataset.truncated_share == 0
    (estimate,) = found.estimates
    assert estimate.row_seconds == pytest.approx(sum(lengths) / estimate.tokens_per_second)
    (cut,) = diagnose(path, **options).estimates
    assert cut.row_seconds == pytest.approx(sum(min(512, length) for length in lengths) / cut.tokens_per_second)


@pytest.mark.parametrize(
    "options", [{"prefilter": "10%", "signals": "gradient"}, {"windows": True}, {"memory": "8GB", "per_anchor": True}]
)
def test_options_that_do_not_go_together_are_refused(lessons: Path, model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RipcurrentError, match=r"--prefilter needs|--windows is for|does not bound yet"):
        diagnose(lessons, model=str(model), **options)


@pytest.mark.parametrize("kind", ["llama_tied", "llama_untied"])
@pytest.mark.parametrize("scope", ["all", "linear"])
def test_random_directions_are_held_as_those_of_a_scan(kind: str, scope: str, tmp_path: Path) -> None:
    chat_model = load_model(save_tiny(tmp_path / "model", kind), device="cpu", dtype="float32", scope=scope)
    options = ScanOptions(scope=scope)  # type: ignore[arg-type]
    gradient_pass = GradientPass(chat_model)
    anchor_set = load_anchors()
    rows = encode_for_gradient(anchor_set, chat_model, options)
    like = LikeDirections(gradient_pass, anchor_set, rows)

    def direction(name: str) -> dict[str, torch.Tensor]:
        chosen = [rows[place] for place in anchor_set.places(name)]
        return set_direction(gradient_pass, chosen, factoring=like.factoring).gradient

    safe = mean_gradient([direction(name) for name in anchor_set.safe_sets], torch.float32)
    held = [
        stack_directions(gradient_pass.catalogue, list(directions), torch.float32)
        for directions in ([direction("harmful"), safe], like.of_scan())
    ]
    assert held[0].linear.keys() == held[1].linear.keys()
    assert held[0].other.keys() == held[1].other.keys()
    sizes = [sum(t.numel() for t in (*one.linear.values(), *one.other.values())) for one in held]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt2", {"max_tokens": 512}),
        ("llama_untied", {"scope": "linear", "signals": "gradient"}),
        ("qwen2", {"scope": "lora", "signals": "gradient", "dtype": "float32"}),
    ],
)
def test_every_kind_of_layer_and_scope_can_be_probed(
    kind: str, options: dict[str, Any], tmp_path: Path, lessons: Path
) -> None:
    model = save_tiny(tmp_path / "model", kind)

    found = diagnose(lessons, model=str(model), limit=12, **options)

    assert found.estimates[-1].signals == options.get("signals", "all")
    assert found.estimates[-1].tokens_per_second > 0


def test_a_scan_that_does_not_fit_is_a_warning(lessons: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ripcurrent.api._doctor.free_memory", lambda device: 1000)

    found = diagnose(lessons, model=str(model), signals="representation")

    warning = next(finding for finding in found.environment if finding.name == "memory for the scan")
    assert "--max-tokens" in (warning.advice or "")


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
    assert set(found) == {"environment", "model", "dataset", "estimates"}
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


@pytest.mark.parametrize("arguments", [["missing.jsonl"], ["--model", "missing-folder/model"], ["--signals", "louder"]])
def test_what_a_scan_would_refuse_ends_with_one(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", *arguments]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error:" in captured.err


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

    found, _ = in_a_process("doctor", *rows)
    forecast = found["estimates"][-1]["peak_memory_bytes"]
    _, peak = in_a_process("scan", *rows, "--out", str(tmp_path / "run"))

    print(f"forecast {forecast / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, {forecast / peak:.3f}")
    assert forecast / peak == pytest.approx(1, abs=0.15)


def in_a_process(*arguments: str) -> tuple[dict[str, Any], int]:
    """What a command prints as JSON, and the peak memory of its process in bytes."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, "-m", "ripcurrent", *arguments, "--json"], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        out.seek(0)
        return json.load(out), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
