"""What the bench of exactness and speed says of its figures, which rows it takes, and how long it may take."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench import __main__ as everything
from bench import exactness, rows, speed
from bench.goals import judged, line


@pytest.mark.parametrize(
    ("value", "goals", "more", "said"),
    [
        (2.1, (1.8, 2.0), True, "goals ≥ 1.8 and ≥ 2: pass"),
        (1.9, (1.8, 2.0), True, "goals ≥ 1.8 and ≥ 2: first goal passed, FALLS SHORT of the second"),
        (1.7, (1.8, 2.0), True, "goals ≥ 1.8 and ≥ 2: FALLS SHORT"),
        (20.0, (20.0,), False, "goal ≤ 20: pass"),
        (20.1, (20.0,), False, "goal ≤ 20: FALLS SHORT"),
        (float("nan"), (20.0,), False, "goal ≤ 20: FALLS SHORT"),
    ],
)
def test_goals_are_met_or_fallen_short_of(value: float, goals: Sequence[float], more: bool, said: str) -> None:
    assert judged(value, goals, more=more) == said
    assert line("it", value, goals, more=more).endswith(f"{value:6.2f}   {said}")
    assert line("it", value, None, more=more).endswith(f"{value:6.2f}")


def test_exactness_has_goals_for_differences_in_float32_and_for_ranks_in_bfloat16() -> None:
    assert exactness.said("float32", 5e-6, 2e-4, 0.5) == (
        "largest cosine difference 5.0e-06 (goal ≤ 2e-05: pass), "
        "largest relative norm difference 2.0e-04 (goal ≤ 0.0001: FALLS SHORT), Spearman 0.500000"
    )
    assert exactness.said("bfloat16", 5e-3, 1e-2, 0.9985) == (
        "largest cosine difference 5.0e-03, largest relative norm difference 1.0e-02, "
        "Spearman 0.998500 (goal ≥ 0.999: FALLS SHORT)"
    )


@pytest.mark.parametrize("count", [exactness.ROWS, 20, exactness.FULL_ROWS])
def test_rows_of_the_directions_are_others_than_those_compared(count: int) -> None:
    sampled: Any = list(range(count + exactness.DIRECTION_ROWS))
    compared, (one, other) = exactness.split(sampled)
    assert (len(compared), len(one), len(other)) == (count, 8, 8)
    assert sorted([*compared, *one, *other]) == sampled
    assert min(compared) < count / 4
    assert max(compared) > len(sampled) - count / 4


@pytest.mark.parametrize(("count", "taken"), [(24, 24), (60, 60), (400, 300)])
def test_a_sample_has_the_files_lengths_and_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int, taken: int
) -> None:
    lengths = np.random.default_rng(0).lognormal(5.0, 0.6, 300).astype(int)
    encoded = [
        SimpleNamespace(status="ok", index=place, tokens=np.zeros(length)) for place, length in enumerate(lengths)
    ]
    (tmp_path / "rows.json").write_text(json.dumps([]))
    monkeypatch.setenv("RIPCURRENT_DATA", str(tmp_path))
    monkeypatch.setattr(rows, "read_rows", lambda path: None)
    monkeypatch.setattr(rows, "encode_rows", lambda read, tokenizer: [*encoded, SimpleNamespace(status="empty")])
    chat_model: Any = SimpleNamespace(tokenizer=None)
    found = rows.sample(chat_model, "rows.json", count)
    assert len(found) == taken
    assert [row.index for row in found] == sorted({row.index for row in found})
    assert np.mean([len(row.tokens) for row in found]) == pytest.approx(lengths.mean(), rel=0.03)


def test_speed_prints_each_ratio_with_its_goals(capsys: pytest.CaptureFixture[str]) -> None:
    taken: Any = [SimpleNamespace(tokens=range(100))] * 10
    seconds = {"forward": 1.0, "scan": 4.5, "representation": 1.0, "loop": 9.0, "loop, our attention": 8.0}
    figures = speed._report("rows/alpaca_en_demo.json", taken, seconds, 0.1, arithmetic=1.8)
    printed = capsys.readouterr().out.splitlines()
    assert any("2.00   goals ≥ 1.8 and ≥ 2: pass" in each for each in printed)
    assert any(
        each.endswith("4.50   goals ≤ 4.6 and ≤ 4: first goal passed, FALLS SHORT of the second") for each in printed
    )
    assert any(each.endswith("times the same loop on our attention           1.78") for each in printed)
    assert figures["loop"] == 2.0
    assert figures["of_matmul_peak"] == pytest.approx(0.4)
    assert any(each.endswith("times the batch-1 loop, arithmetic alone       5.00") for each in printed)


@pytest.mark.parametrize(
    ("arguments", "minutes", "expected", "ends"),
    [
        ([], 12.0, [[], []], "12.00   goal ≤ 20: pass"),
        (["--quick", "--json", "f"], 21.0, [[], ["--quick", "--json", "f"]], "21.00   goal ≤ 20: FALLS SHORT"),
        (["--full"], 50.0, [["--full"], ["--full"]], "50.00"),
    ],
)
def test_the_whole_bench_says_how_long_it_took(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    minutes: float,
    expected: list[list[str]],
    ends: str,
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    clock = iter((0.0, minutes * 60))
    monkeypatch.setattr(everything, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(everything, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    assert everything.main() == 0
    assert [command[2:] for command in commands] == [
        ["bench.exactness", *expected[0]],
        ["bench.speed", *expected[1]],
    ]
    assert capsys.readouterr().out.rstrip().endswith(ends)
