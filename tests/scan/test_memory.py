"""A scan within a memory budget: sizes, the plan by measured peaks, directions in files, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ripcurrent.scan._memory_probe import largest_within, peak_at, peak_up_to, probe_peaks

from ripcurrent.data import Row
from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import SHORTEST_SHARE, MappedStore, make_batch, stack_directions, worth_sharing
from ripcurrent.models import LONGEST_GROUPED, peak_bytes, process_peak, reset_peak
from ripcurrent.scan import _memory, _memory_probe
from ripcurrent.scan._memory import (
    MARGIN,
    _too_little,
    longest_row,
    parse_size,
    plan_path,
    read_plan,
    require_room_for_directions,
    within_memory,
)
from ripcurrent.scan._options import ScanOptions, resolve_options
from ripcurrent.scan._scan import scan
from ripcurrent.scan._signal_stage import SignalStage
from tests.gradients.oracle import random_directions
from tests.scan.test_scan_resume import Counting
from tests.scan.tiny_stage import assert_same, fresh, make_stage, rows
from tests.tiny_scan import EXACT, good_rows, write_jsonl

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stage() -> SignalStage:
    return make_stage()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GB", 8 * 10**9),
        ("6GiB", 6 * 2**30),
        ("500 mb", 5 * 10**8),
        ("1.5GB", 15 * 10**8),
        ("123 B", 123),
        ("2000000", 2 * 10**6),
        ("7kb", 7000),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected
    assert ScanOptions(memory=text).memory == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "GB", "8 gigs", "-1GB", "0", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="8GB"):
        parse_size(text)


def test_a_small_number_without_a_unit_is_no_size() -> None:
    with pytest.raises(RipcurrentError, match=r"--memory 8 is not possible\.\nIt has no unit: write 8GB or 8MB\."):
        resolve_options(None, {"memory": "8"})


@pytest.mark.parametrize(
    ("given", "named", "ways"),
    [
        ({}, "--signals representation, --scope linear or lora, --dtype bfloat16, or a", "--scope linear or lora"),
        ({"scope": "linear"}, "--signals representation, --scope lora, --dtype bfloat16, or a", "--scope lora"),
        ({"scope": "lora"}, "--signals representation, --dtype bfloat16, or a", ""),
        ({"signals": "representation"}, "--dtype bfloat16, or a", None),
        ({"signals": "representation", "dtype": "bfloat16"}, "a", None),
    ],
)
def test_what_is_given_already_is_not_advised(given: dict[str, Any], named: str, ways: str | None) -> None:
    options = ScanOptions(memory=10**6, **given)
    smallest, longest = (_memory._too_little(options, 200, [(64, peak)], 100).hint for peak in (10.0**9, 10.0))
    assert smallest.startswith(f"Use {named} smaller model. ")
    cheaper = "" if ways is None else " or ".join(filter(None, ["; or use --signals representation", ways]))
    assert longest.startswith(f"--max-tokens 100 fits{cheaper}. ")


def test_curves_are_read_between_what_was_measured_and_bent_beyond() -> None:
    tried = [(64, 1000.0), (128, 1100.0), (256, 1400.0)]
    assert peak_at(tried, 128) == 1100
    assert peak_at(tried, 192) == 1250
    assert peak_at(tried, 10) == 1000
    # a straight line would give 1700 at 384; with attention's square it is more, and twice the length at most doubles
    # the slope
    assert 1700 < peak_at(tried, 384) < 1400 + 2 * 128 * 300 / 128
    for limit in (900, 1000, 1120, 1399, 1400, 2000, 10**9):
        found = largest_within(tried, limit, 1000)
        assert found == max((n for n in range(1, 1001) if peak_at(tried, n) <= limit), default=0)


@dataclasses.dataclass
class Costs:
    """Stands for the peak of a batch of one row: bytes by number of tokens, with directions in memory or not."""

    base: float
    slope: float
    bend: float
    directions: float
    several: float = 0.0
    refused: bool = False
    """Directions in memory are refused at once, as a GPU does."""
    asked: list[tuple[bool, int]] = dataclasses.field(default_factory=list)
    shapes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """Tokens of a row and rows of every batch that was asked for."""

    def __call__(self, mapped: bool, tokens: int, rows: int = 1) -> float:
        self.asked.append((mapped, tokens * rows))
        self.shapes.append((tokens, rows))
        of_rows = rows * (self.slope * tokens + self.bend * tokens**2) + (rows - 1) * self.several
        return self.base + (0 if mapped else self.directions) + of_rows


@pytest.fixture
def planned(
    stage: SignalStage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[SignalStage, _memory.MemoryPlan]]:
    """Plan for made-up costs, the longest row and the options given."""

    def plan(
        costs: Costs, longest: int, *, directions_bytes: int = 0, **options: Any
    ) -> tuple[SignalStage, _memory.MemoryPlan]:
        now = [False]

        def make(mapped: bool) -> SignalStage:
            now[0] = mapped
            if not mapped and costs.refused:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return fresh(stage)

        monkeypatch.setattr(_memory_probe, "_peak_of", lambda stage, tokens, rows=1: costs(now[0], tokens, rows))
        monkeypatch.setattr(_memory, "longest_row", lambda *rest: longest)
        monkeypatch.setattr(_memory, "memory_in_use", lambda device: int(costs.base))
        return within_memory(
            plan_path(tmp_path),
            lambda: [],
            ScanOptions(**options),
            stage.chat_model,
            make,
            lambda step: None,
            directions_bytes,
        )

    return plan


def test_no_row_that_is_tried_is_longer_than_the_scans_longest(stage: SignalStage) -> None:
    tried: list[tuple[int, int]] = []

    class Counted(SignalStage):
        def measure(self, rows: Any) -> Any:
            tried.append((len(rows), len(rows[0].tokens)))

    fields = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage) if field.init}
    counted = Counted(**{**fields, "max_tokens": 100})
    for tokens, many in ((64, 1), (100, 1), (350, 1), (256, 2)):
        _memory_probe._peak_of(counted, tokens, many)
    assert tried == [(1, 64), (1, 100), (4, 100), (6, 100)]


def test_rows_that_are_tried_begin_alike_for_as_little_as_is_shared(stage: SignalStage) -> None:
    """Then sharing's copies are largest; rows all alike would pass their tokens once, and take too little."""
    tried: list[Any] = []

    class Counted(SignalStage):
        def measure(self, rows: Any) -> Any:
            tried.append(make_batch(rows, stage.chat_model.device))

    fields = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage) if field.init}
    for tokens, many in ((256, 2), (64, 8), (64, 1)):
        _memory_probe._peak_of(Counted(**fields), tokens, many)
    for batch in tried[:2]:
        saved = worth_sharing(batch) * (batch.rows - 1) / batch.ids.numel()
        assert SHORTEST_SHARE <= saved < SHORTEST_SHARE + 0.02
    assert worth_sharing(tried[2]) == 0


def test_enough_memory_changes_nothing(planned: Any) -> None:
    costs = Costs(1000, 1, 0.001, 500)
    stage, plan = planned(costs, 100, memory=100_000)
    assert (stage.token_budget, plan.token_budget, plan.mapped_directions) == (512, 512, False)
    assert plan.expected_peak == int(costs(False, 512))


def test_smaller_batches_come_first(planned: Any) -> None:
    costs = Costs(1000, 10, 0.0, 500)
    stage, plan = planned(costs, 100, memory=4000)
    # nothing was run that the budget does not hold
    assert all(costs(mapped, tokens) <= 4000 for mapped, tokens in list(costs.asked))
    assert not plan.mapped_directions
    assert 100 <= stage.token_budget == plan.token_budget < 512
    assert costs(False, plan.token_budget) <= 4000 * MARGIN
    # and no smaller than need be
    assert costs(False, int(plan.token_budget * 1.2)) > 4000 * MARGIN
    # rows longer than any of the scan do not count
    assert plan.expected_peak <= 4000 * MARGIN


def test_a_batch_that_ran_out_is_no_reason_against_smaller_ones(planned: Any) -> None:
    """Nor does its peak, of which there is none, stand in the plan."""

    class RunsOut(Costs):
        def __call__(self, mapped: bool, tokens: int, rows: int = 1) -> float:
            peak = super().__call__(mapped, tokens, rows)
            return math.inf if tokens * rows > 300 else peak

    _, plan = planned(RunsOut(1000, 1, 0.0, 0), 200, memory=100_000)
    assert 200 <= plan.token_budget <= 300
    assert plan.expected_peak < 2000


def test_several_rows_must_fit_too(planned: Any) -> None:
    costs = Costs(1000, 1, 0.001, 0, several=5000)
    _, plan = planned(costs, 100, memory=3000)
    # one row of 512 tokens would fit, two of 224 do not, nor two of 112 or of 56
    assert costs(False, 512) <= 3000 * MARGIN < costs(False, 56, 2)
    assert plan.token_budget == 56
    _, plan = planned(costs, 100, memory=10_000)
    assert plan.token_budget == 112
    assert costs(False, 56, 2) <= plan.expected_peak <= 10_000 * MARGIN < costs(False, 56, 4)
    _, plan = planned(costs, 100, memory=60_000)
    assert plan.token_budget == 512
    assert plan.expected_peak == int(costs(False, 56, 9))


def test_the_longest_row_whose_probabilities_are_kept_is_tried(planned: Any) -> None:
    costs = Costs(1000, 1, 0.001, 500)
    planned(costs, 512, memory=100_000)
    assert {(size, 1) for size in (64, 128, 256, LONGEST_GROUPED, 512)} <= set(costs.shapes)
    planned(costs, 512, memory=200_000, token_budget=2000)
    assert (LONGEST_GROUPED, 4) in costs.shapes


def test_a_peak_that_a_longer_row_does_not_reach_counts() -> None:
    assert peak_up_to([(64, 10.0), (448, 90.0), (512, 60.0)], 512) == 90.0
    assert peak_up_to([(64, 10.0), (448, 90.0), (512, 60.0)], 256) == peak_at([(64, 10.0), (448, 90.0)], 256)


def test_then_directions_go_to_files(planned: Any) -> None:
    costs = Costs(1000, 10, 0.0, 1500)
    stage, plan = planned(costs, 200, memory=4000)
    assert plan.mapped_directions
    assert 200 <= stage.token_budget < 512
    assert costs(True, plan.token_budget) <= 4000 * MARGIN


def test_directions_that_a_gpu_refuses_go_to_files_too(planned: Any) -> None:
    costs = Costs(1000, 10, 0.0, 0, refused=True)
    _, plan = planned(costs, 200, memory=4000)
    assert plan.mapped_directions
    assert all(mapped for mapped, _ in costs.asked)


def test_directions_that_alone_pass_the_budget_are_never_in_memory(planned: Any) -> None:
    costs = Costs(1000, 1, 0.0, 3000)
    _, plan = planned(costs, 200, memory=4000, directions_bytes=3000)
    assert plan.mapped_directions
    assert all(mapped for mapped, _ in costs.asked)
    with pytest.raises(RipcurrentError, match="the longest row has 4000 tokens"):
        planned(costs, 4000, memory=4001, directions_bytes=3000)


def test_then_the_error_says_what_would_fit(planned: Any) -> None:
    with pytest.raises(RipcurrentError, match="the longest row has 400 tokens and takes about") as caught:
        planned(Costs(1000, 10, 0.0, 1500), 400, memory=4000)
    fits = int(caught.value.hint.split()[1])
    assert 200 < fits < 400
    with pytest.raises(RipcurrentError, match="even a batch of 64 tokens takes"):
        planned(Costs(10_000, 10, 0.0, 1500), 400, memory=4000)


def test_a_longest_row_above_the_token_budget_is_what_counts(planned: Any) -> None:
    _, plan = planned(Costs(1000, 1, 0.001, 0), 900, memory=10_000)
    assert plan.token_budget == 512
    assert plan.longest_row == 900
    assert plan.expected_peak == int(Costs(1000, 1, 0.001, 0)(False, 900))


def test_the_same_budget_takes_the_plan_that_is_there_and_another_does_not(planned: Any, tmp_path: Path) -> None:
    _, first = planned(Costs(1000, 10, 0.0, 500), 100, memory=4000)
    assert read_plan(plan_path(tmp_path)) == first
    unasked = Costs(1, 1, 1, 1)
    stage, again = planned(unasked, 100, memory=4000)
    assert again == first
    assert stage.token_budget == first.token_budget
    assert not unasked.asked
    _, other = planned(Costs(1000, 10, 0.0, 500), 100, memory=3000)
    assert other.token_budget < first.token_budget


def test_a_probe_that_runs_out_is_no_more_than_too_large(stage: SignalStage, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: Any, group: Any) -> None:
        if len(group[0].tokens) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(SignalStage, "measure", measure)
    tried = probe_peaks(fresh(stage), 512, 1e12)
    # the edge is looked for between what fitted and what did not
    assert [(tokens, peak == math.inf) for tokens, peak in tried] == [(64, False), (96, False), (104, True)]
    assert largest_within(tried, 1e12, 512) == 96
    said = _too_little(ScanOptions(memory=10**12), 512, tried, 96)
    assert "104 tokens run out of memory" in said.message
    assert "inf" not in str(_too_little(ScanOptions(memory=10**9), 512, [(64, math.inf)], 0))


def test_the_longest_row_is_found_and_not_further_than_need_be(stage: SignalStage) -> None:
    def documents() -> Any:
        for number, words in enumerate((3, 9, 5)):
            yield Row(number, "", (), "boats " * words, {})

    def endless() -> Any:
        yield Row(0, "", (), "boats " * 500, {})
        raise AssertionError("read on")

    lengths = [len(stage.chat_model.tokenizer("boats " * words)["input_ids"]) for words in (3, 9, 5)]
    for windows in (False, True):
        options = ScanOptions(max_tokens=100, windows=windows)
        assert longest_row(documents(), stage.chat_model, options) == max(lengths)
        assert longest_row(iter([]), stage.chat_model, options) == 0
    assert longest_row(endless(), stage.chat_model, ScanOptions(max_tokens=100, windows=True)) == 100


def test_directions_in_files_give_the_same_numbers(stage: SignalStage, tmp_path: Path) -> None:
    layers = stage.gradient_pass.layers  # type: ignore[union-attr]
    directions = random_directions(stage.chat_model.model, set(layers.parameter_shapes()))
    store = MappedStore(tmp_path)
    stacked = stack_directions(layers, directions, torch.float32, empty=store.empty, written=store.let_go)
    mapped = fresh(stage, directions=store.directions(stacked, CPU))
    assert not list(tmp_path.iterdir())
    usual, found = fresh(stage)(rows()), mapped(rows())
    assert_same(usual, found)
    assert usual["dot_harmful"].to_pylist() == found["dot_harmful"].to_pylist()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are reset on Linux alone")
def test_mapped_directions_stay_out_of_memory(tmp_path: Path) -> None:
    store = MappedStore(tmp_path)
    tensors = {number: store.empty(8, 2**20, dtype=torch.float32, device=CPU) for number in range(6)}
    for tensor in tensors.values():
        tensor.fill_(1.0)
        store.let_go()
    mapped = store.directions(_memory.Directions(1, tensors, {}), CPU).linear
    reset_peak(CPU)
    before = peak_bytes(CPU)
    assert sum(float(mapped[number].sum()) for number in mapped) == 6 * 8 * 2**20
    # one tensor of 34 MB at a time, and not all 200 MB
    assert peak_bytes(CPU) - before < 80e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the system has but one count")
def test_a_peak_is_not_that_of_who_started_the_process() -> None:
    held = bytearray(b"x") * 1_500_000_000
    code = "from ripcurrent.models import process_peak; print(process_peak())"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 50e6 < int(found) < len(held)


def test_a_full_disk_is_an_error_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(RipcurrentError, match=r"no room for 0\.0 GB of directions: No space left"):
        MappedStore(tmp_path).empty(4, 4, dtype=torch.float32, device=CPU)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are reset on Linux alone")
def test_the_peak_is_of_what_ran_since_the_reset_and_the_process_keeps_its_own() -> None:
    np.ones(30_000_000).sum()
    whole = process_peak()
    reset_peak(CPU)
    assert peak_bytes(CPU) < whole
    assert process_peak() >= whole


def test_directions_that_cannot_be_summed_are_refused_before(stage: SignalStage) -> None:
    require_room_for_directions(100, stage.chat_model, ScanOptions())
    require_room_for_directions(100, stage.chat_model, ScanOptions(memory=10**12))
    with pytest.raises(RipcurrentError, match=r"directions takes 8\d\.\d GB, more than --memory 50\.0 GB") as caught:
        require_room_for_directions(10**10, stage.chat_model, ScanOptions(memory="50GB"))  # type: ignore[arg-type]
    assert "RIPCURRENT_CACHE" in caught.value.hint


@pytest.fixture
def options(tiny_folder: Path, anchors_file: Path) -> dict[str, Any]:
    return {"model": str(tiny_folder), "anchors": str(anchors_file), "shard_rows": 8, **EXACT}


def test_a_scan_within_its_budget_says_so_and_a_resumed_one_may_have_another(
    tmp_path: Path, options: dict[str, Any], no_page: None
) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(30))
    usual = scan(dataset, tmp_path / "usual", **options)
    assert usual.manifest["memory"] == {"batches_halved": 0}
    with pytest.raises(KeyboardInterrupt):
        scan(dataset, tmp_path / "kept", memory="64GB", progress=Counting(stop_after=9), **options)
    told = Counting()
    kept = scan(dataset, tmp_path / "kept", memory="32GB", progress=told, **options)
    assert told.found == 8
    memory = kept.manifest["memory"]
    assert (memory["memory"], memory["kept"], memory["mapped_directions"]) == (32 * 10**9, True, False)
    assert memory["longest_row"] == max(
        row["prompt_tokens"] + row["response_tokens"] for row in kept.scores().to_pylist()
    )
    for name in ("gradient_bidirectional", "representation_bidirectional"):
        difference = np.abs(usual.scores()[name].to_numpy() - kept.scores()[name].to_numpy())
        assert difference.max() < 2e-5


def test_a_scan_that_only_planned_gives_way_to_other_options(
    tmp_path: Path, options: dict[str, Any], no_page: None
) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(10))
    with pytest.raises(KeyboardInterrupt):
        scan(dataset, tmp_path / "out", memory="64GB", progress=Counting(stop_after=1), **options)
    assert (tmp_path / "out" / "memory.json").exists()
    assert not list((tmp_path / "out").rglob("shard-*.parquet"))
    shorter = scan(dataset, tmp_path / "out", memory="64GB", max_tokens=40, **options)
    assert shorter.manifest["memory"]["longest_row"] <= 40, "planned anew"


def test_a_scan_whose_directions_are_in_files_scores_the_same(
    tmp_path: Path, options: dict[str, Any], no_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(20))
    usual = scan(dataset, tmp_path / "usual", **options)
    monkeypatch.setattr(_memory, "memory_in_use", lambda device: 64 * 10**9)
    mapped = scan(dataset, tmp_path / "mapped", memory="64GB", **options)
    assert mapped.manifest["memory"]["mapped_directions"]
    assert {path.suffix for path in mapped.folder.iterdir()} <= {".json", ".parquet", ".yaml", ".html", ""}
    for name in ("gradient_bidirectional", "gradient_norm"):
        np.testing.assert_allclose(usual.scores()[name], mapped.scores()[name], rtol=1e-5, atol=2e-5)


def test_a_budget_that_cannot_be_kept_ends_before_any_row(
    tmp_path: Path, options: dict[str, Any], no_page: None
) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(10))
    with pytest.raises(RipcurrentError, match="--memory 50 MB") as caught:
        scan(dataset, tmp_path / "out", memory="50MB", **options)
    assert caught.value.code == 2
    assert not list((tmp_path / "out").rglob("shard-*"))


def test_what_memory_does_not_bound_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(3))
    with pytest.raises(RipcurrentError, match="--memory does not bound yet"):
        scan(dataset, tmp_path / "out", memory="8GB", per_anchor=True, **options)
    with pytest.raises(RipcurrentError, match="--memory lots is not possible"):
        scan(dataset, tmp_path / "out", memory="lots", **options)
