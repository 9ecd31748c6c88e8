"""What doctor foresees of a scan: time, memory, and what a budget holds."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.anchors import load_anchors
from ripcurrent.cli import run
from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import DENSE, GradientPass, mean_gradient, set_direction, stack_directions
from ripcurrent.models import cache_folder, load_model
from ripcurrent.scan import _anchor_passes, _budget_trial, _memory, _probe
from ripcurrent.scan._doctor import diagnose
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._prepared_anchors import encode_for_gradient
from ripcurrent.scan._probe_directions import LikeDirections
from tests.models.tiny import save_tiny, tiny_tokenizer
from tests.scan.doctor_rows import WORDS, lessons, model, write_rows

__all__ = ["lessons", "model"]
"""Fixtures."""


@pytest.mark.parametrize("signals", ["representation", "gradient"])
def test_the_rate_counts_measured_batches_alone(
    signals: str, lessons: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(_probe.time, "perf_counter", lambda: float(next(seconds)))
    batches: list[int] = []
    run_stage = _probe.SignalStage.compute

    def counted(stage: Any, rows: Any) -> Any:
        batches.append(len(rows))
        return run_stage(stage, rows)

    monkeypatch.setattr(_probe.SignalStage, "compute", counted)

    (estimate,) = diagnose(lessons, model=str(model), signals=signals).estimates

    if signals == "gradient":
        # the same rows once more as one shard, for the peak alone
        assert batches.pop() == sum(batches)
    # every batch takes one tick of that clock; the first rows only warm up
    assert estimate.probed_rows == sum(batches[1:])
    assert estimate.tokens_per_second == pytest.approx(estimate.probed_tokens / (len(batches) - 1))


def test_batches_are_probed_over_the_whole_sample_and_the_largest_first() -> None:
    lengths = [20] * 300 + [440] * 2 + [100] * 207 + [500] * 3
    rows: Any = list(range(512))
    load = _probe.Load(rows, lengths, 512.0, float(sum(lengths)), 0.0, 512, lambda: [])
    first, batches = _probe.chosen_batches(load, 512, 512)
    # the longest, and those whose attention probabilities are kept for the backward pass and are the most
    assert [lengths[row] for row in first] == [500, 500, 440, 440]  # type: ignore[call-overload]
    probed = [lengths[row] for batch in batches for row in batch]  # type: ignore[call-overload]
    assert {20, 100} <= set(probed)

    long = _probe.Load(rows[:4], [500, 480, 460, 450], 4.0, 1890.0, 0.0, 256, lambda: [])
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
    assert not list((tmp_path / "cache").glob("*"))


def test_directions_that_cannot_be_computed_within_a_budget_end_as_a_scan_does(
    lessons: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_memory, "memory_in_use", lambda device: 64 * 10**9)
    with pytest.raises(RipcurrentError, match="Computing the anchors' directions takes"):
        diagnose(lessons, model=str(model), memory="64GB")


def test_directions_that_alone_pass_a_budget_are_probed_in_files(
    lessons: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_memory, "memory_in_use", lambda device: 64 * 10**9)
    monkeypatch.setattr(_probe, "directions_are_cached", lambda *_: True)
    places: list[Any] = []
    real = _probe.scan_directions

    def noting(gradient_pass: Any, stored: Any, chat_model: Any, mapped_in: Path | None) -> Any:
        places.append(mapped_in)
        return real(gradient_pass, stored, chat_model, mapped_in)

    monkeypatch.setattr(_probe, "scan_directions", noting)
    diagnose(lessons, model=str(model), memory="64GB")
    assert places
    assert None not in places, "never in memory"


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
        stack_directions(gradient_pass.layers, list(directions), torch.float32)
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
    monkeypatch.setattr(import_module("ripcurrent.scan._doctor"), "free_memory", lambda device: 1000)

    found = diagnose(lessons, model=str(model), signals="representation")

    warning = next(finding for finding in found.environment if finding.name == "memory for the scan")
    assert "--max-tokens" in (warning.advice or "")


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


@pytest.mark.parametrize("signals", ["representation", "gradient"])
def test_budgets_are_tried_on_the_same_rows(
    signals: str, lessons: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half, once, twice and four times the budget in turn, then half the threads with the fastest; and said so."""
    tried: list[tuple[int, int, tuple[int, ...]]] = []
    run_stage = _budget_trial.SignalStage.compute

    def slower_when_larger(stage: Any, rows: Any) -> Any:
        tried.append((stage.token_budget, torch.get_num_threads(), tuple(row.row.index for row in rows)))
        return run_stage(stage, rows)

    clock = itertools.count()
    timed = _budget_trial.batch_rates

    def only_the_trial(stage: Any, rows: Any) -> Any:
        monkeypatch.setattr(_budget_trial.time, "perf_counter", lambda: float(next(clock)) * len(tried))
        monkeypatch.setattr(_budget_trial.SignalStage, "compute", slower_when_larger)
        return timed(stage, rows)

    monkeypatch.setattr(_probe, "batch_rates", only_the_trial)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        options = ["--model", str(model), "--signals", signals, "--token-budget", "64", "--try-budgets"]
        assert run(["doctor", str(lessons), *options]) == 0
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)

    assert [each[:2] for each in tried] == [*[(budget, 4) for budget in (32, 64, 128, 256)] * 2, *[(32, 2)] * 2]
    (rows,) = {each[2] for each in tried}
    assert rows
    shown = capsys.readouterr().out
    assert "--token-budget 256: " in shown
    assert "--token-budget 32 with OMP_NUM_THREADS=2: " in shown
    assert "Fastest here and now: --token-budget 32." in shown


@pytest.mark.parametrize(("arguments", "says"), [([], "none is given"), (["--memory", "8GB"], "whatever fits")])
def test_budgets_cannot_be_tried_without_rows_or_within_a_budget(
    arguments: list[str], says: str, lessons: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = [str(lessons)] if arguments else []
    assert run(["doctor", *dataset, "--model", str(model), "--try-budgets", *arguments]) == 1
    assert says in capsys.readouterr().err
