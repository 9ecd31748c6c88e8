"""``--token-budget auto``: the fastest batches are timed once, kept for run and machine, and change no score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.cli import run
from ripcurrent.errors import RipcurrentError
from ripcurrent.scan import _timed_batches
from ripcurrent.scan._budget_trial import BatchRate
from ripcurrent.scan._doctor import diagnose
from ripcurrent.scan._execution import Execution
from ripcurrent.scan._part import Part
from ripcurrent.scan._scan import scan, scan_part
from ripcurrent.scan._signal_stage import SignalStage
from tests.scan.test_scan_resume import Counting
from tests.tiny_scan import good_rows, small_shards, write_jsonl

pytestmark = pytest.mark.usefixtures("no_page")

ROWS = 24


@pytest.fixture
def options(tiny_folder: Path, anchors_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Timing always pays, and what other tests timed is not known."""
    monkeypatch.setattr(_timed_batches, "WORTH", 0)
    monkeypatch.setattr(_timed_batches, "cache_folder", lambda: tmp_path / "cache")
    return {**small_shards(tiny_folder, anchors_file), "token_budget": "auto"}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", good_rows(ROWS))


class Timings:
    """Stands for the clock: speeds by budget, and a note of every time that it was asked."""

    def __init__(self, speeds: dict[int, float], ran_out: tuple[int, ...] = (), threads: int = 1) -> None:
        self.speeds, self.ran_out, self.threads = speeds, ran_out, threads
        self.asked: list[list[int]] = []

    def __call__(self, stage: SignalStage, rows: Sequence[Any]) -> list[BatchRate]:
        stage.on_rows(99)
        self.asked.append([len(row.pieces[0].tokens) for row in rows])
        return [
            BatchRate(budget, self.threads, speed, 10**9, budget in self.ran_out)
            for budget, speed in self.speeds.items()
        ]


@pytest.fixture
def budgets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Token budget and threads of every shard that was computed."""
    found: list[tuple[int, int]] = []
    compute = SignalStage.compute

    def noted(stage: SignalStage, rows: Any) -> Any:
        found.append((stage.token_budget, torch.get_num_threads()))
        return compute(stage, rows)

    monkeypatch.setattr(SignalStage, "compute", noted)
    return found


@pytest.mark.parametrize(
    ("speeds", "ran_out", "taken"),
    [
        ({256: 50, 512: 80, 1024: 90, 2048: 100}, (), 2048),
        ({256: 50, 512: 80, 1024: 98, 2048: 100}, (), 1024),
        ({256: 50, 512: 80, 1024: 90, 2048: 100}, (2048,), 1024),
        ({256: 99, 512: 80, 1024: 90, 2048: 100}, (), 256),
    ],
    ids=["fastest", "nearly as fast and smaller", "the fastest ran out", "smallest"],
)
def test_the_smallest_that_are_about_as_fast_as_the_fastest_are_taken(
    speeds: dict[int, float],
    ran_out: tuple[int, ...],
    taken: int,
    tmp_path: Path,
    dataset: Path,
    options: dict[str, Any],
    budgets: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_timed_batches, "batch_rates", Timings(speeds, ran_out))
    before = torch.get_num_threads()
    told = Counting()
    result = scan(dataset, tmp_path / "run", progress=told, **options)
    assert set(budgets) == {(taken, 1)}
    assert torch.get_num_threads() == before
    assert told.computed == ROWS, "what is timed is no progress"
    kept = result.manifest["execution"]["batches"]["gradient"]
    assert (kept["token_budget"], kept["threads"], len(kept["timed"])) == (taken, 1, 4)
    assert result.manifest["options"]["token_budget"] == "auto"


def test_a_resumed_scan_and_another_of_such_rows_time_nothing(
    tmp_path: Path,
    dataset: Path,
    options: dict[str, Any],
    budgets: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timings = Timings({256: 10, 512: 30})
    monkeypatch.setattr(_timed_batches, "batch_rates", timings)
    with pytest.raises(KeyboardInterrupt):
        scan(dataset, tmp_path / "run", progress=Counting(stop_after=9), **options)
    # the run's own plan counts, though the machine would be found faster another way now
    timings.speeds = {256: 90, 512: 30}
    for cached in (tmp_path / "cache" / "batches").iterdir():
        cached.unlink()
    scan(dataset, tmp_path / "run", **options)
    assert len(timings.asked) == 1
    assert {budget for budget, _ in budgets} == {512}

    budgets.clear()
    other = write_jsonl(tmp_path / "other.jsonl", good_rows(ROWS)[2:])
    for name in ("first", "second"):
        scan(other, tmp_path / name, **options)
    assert len(timings.asked) == 2, "the second took what the first had timed"
    assert {budget for budget, _ in budgets} == {256}


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, dataset: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(_timed_batches, "cache_folder", lambda: tmp_path / "file")
    timings = Timings({512: 1})
    monkeypatch.setattr(_timed_batches, "batch_rates", timings)
    for name in ("one", "other"):
        scan(dataset, tmp_path / name, **options)
    assert len(timings.asked) == 2


def test_rows_of_middling_length_are_timed(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    timings = Timings({512: 1})
    monkeypatch.setattr(_timed_batches, "batch_rates", timings)
    monkeypatch.setattr(_timed_batches, "TRIAL_BATCHES", 0.1)
    rows = [{"prompt": "Say it.", "response": "and so on " * (1 + number)} for number in range(ROWS)]
    result = scan(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "run", **options)
    lengths = sorted(row["prompt_tokens"] + row["response_tokens"] for row in result.scores().to_pylist())
    timed = sorted(timings.asked[0])
    assert 1 < len(timed) < ROWS
    assert lengths[ROWS // 4] <= timed[0] <= lengths[ROWS // 2] <= timed[-1] <= lengths[3 * ROWS // 4]
    assert sum(timed) >= 0.1 * 2048


def test_too_few_rows_are_not_timed(
    tmp_path: Path,
    dataset: Path,
    options: dict[str, Any],
    budgets: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_timed_batches, "WORTH", 10)
    timings = Timings({2048: 1})
    monkeypatch.setattr(_timed_batches, "batch_rates", timings)
    result = scan(dataset, tmp_path / "run", **options)
    assert not timings.asked
    assert {budget for budget, _ in budgets} == {512}
    assert result.manifest["execution"]["batches"]["gradient"]["timed"] == []
    assert not (tmp_path / "cache").exists()


def test_scores_are_those_of_any_batches(tmp_path: Path, dataset: Path, options: dict[str, Any]) -> None:
    """With the clock itself; both passes of a prefilter have a size of their own, and so has each part."""
    few = {**options, "prefilter": "20%", "prefilter_sample": 100}
    usual = scan(dataset, tmp_path / "usual", **{**few, "token_budget": 512}).scores()
    result = scan(dataset, tmp_path / "auto", **few)
    assert set(result.manifest["execution"]["batches"]) == {"representation", "gradient"}
    for name in ("gradient_bidirectional", "representation_bidirectional"):
        left, right = (table[name].to_numpy() for table in (usual, result.scores()))
        assert np.allclose(left, right, atol=2e-5, equal_nan=True)
    for index in range(2):
        scan_part(dataset, Part(index, 2), tmp_path / "parts", **options)
        plan = json.loads((tmp_path / "parts" / f"batches-{index}-of-2.json").read_text())
        assert len(plan["gradient"]["timed"]) >= 4


def test_the_second_pass_is_timed_with_all_threads_whatever_the_first_took(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    timings = Timings({512: 1}, threads=1)

    def noted(stage: SignalStage, rows: Any) -> list[BatchRate]:
        seen.append(torch.get_num_threads())
        return timings(stage, rows)

    monkeypatch.setattr(_timed_batches, "batch_rates", noted)
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(120))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scan(dataset, tmp_path / "run", **{**options, "prefilter": "20%", "prefilter_sample": 100})
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 2]


def test_what_it_does_not_go_with_is_refused(tmp_path: Path, dataset: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RipcurrentError, match="--token-budget auto takes the fastest batches, and with --memory"):
        scan(dataset, tmp_path / "out", memory="8GB", **options)
    with pytest.raises(RipcurrentError, match="--token-budget auto does not go with --executor ray"):
        scan(dataset, tmp_path / "out", execution=Execution("ray"), **options)
    with pytest.raises(RipcurrentError, match="doctor forecasts a scan of batches of a known size"):
        diagnose(dataset, token_budget="auto")


@pytest.mark.parametrize("value", ["7", "fast", "-512", "512.5"])
def test_what_is_no_budget_is_one_error(value: str, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", str(dataset), f"--token-budget={value}"]) == 1
    said = capsys.readouterr().err
    assert f"--token-budget {value} is not possible" in said
    assert "a number of tokens from 16, or auto" in said
