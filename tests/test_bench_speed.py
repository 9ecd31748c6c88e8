"""What the bench of exactness and speed says of its figures, which rows it reads, and the table that it keeps."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench import __main__ as everything
from bench import exactness, gpu, measure, speed


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
def test_goals_are_met_or_fallen_short_of(value, goals, more, said):
    assert measure.judged(value, goals, more=more) == said
    assert measure.line("it", value, goals, more=more).endswith(f"{value:7.3f}   {said}")
    assert measure.line("it", value).endswith(f"{value:7.3f}")


@pytest.mark.parametrize("count", [exactness.ROWS, 20, exactness.FULL_ROWS])
def test_rows_of_the_directions_are_others_than_those_compared(count):
    sampled: Any = list(range(count + exactness.DIRECTION_ROWS))
    compared, (one, other) = exactness.split(sampled)
    assert (len(compared), len(one), len(other)) == (count, 8, 8)
    assert sorted([*compared, *one, *other]) == sampled


@pytest.mark.parametrize(("count", "expected"), [(24, 24), (400, 300)])
def test_a_sample_has_the_files_lengths_and_order(monkeypatch, tmp_path, count, expected):
    lengths = np.random.default_rng(0).lognormal(5.0, 0.6, 300).astype(int)
    encoded = [SimpleNamespace(status="ok", index=n, tokens=np.zeros(length)) for n, length in enumerate(lengths)]
    (tmp_path / "rows.json").write_text(json.dumps([]))
    monkeypatch.setenv("RIPCURRENT_DATA", str(tmp_path))
    monkeypatch.setattr(measure, "read_rows", lambda path: None)
    monkeypatch.setattr(measure, "encode_rows", lambda read, tokenizer: [*encoded, SimpleNamespace(status="empty")])
    chat_model: Any = SimpleNamespace(tokenizer=None)
    found = measure.sample(chat_model, "rows.json", count)
    assert len(found) == expected
    assert [row.index for row in found] == sorted({row.index for row in found})
    assert np.mean([len(row.tokens) for row in found]) == pytest.approx(lengths.mean(), rel=0.03)


def test_the_whole_bench_runs_both_parts_and_writes_their_table(monkeypatch, capsys, tmp_path):
    best = {"forward": 1.0, "scan": 4.5, "representation": 1.0, "loop": 9.0}
    reports = {name: speed.report(name, 10, 100.0, best, arithmetic=1.8) for name in speed.SETS}
    printed = capsys.readouterr().out
    assert "2.000   goals ≥ 1.8 and ≥ 2: pass" in printed
    assert "4.500   goals ≤ 4.6 and ≤ 4: first goal passed, FALLS SHORT of the second" in printed
    exact = {"cosine": 5e-6, "norm": 2e-4, "spearman": 1.0}
    figures = {
        "bench.exactness": {"rows": 16, "float32": exact, "bfloat16": {**exact, "spearman": 0.9985}},
        "bench.speed": {"machine": "a CPU", "threads": 2, "matmul_flops": 8.5e11, **reports},
    }
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command[2:-2])
        Path(command[-1]).write_text(json.dumps(figures[command[2]]))
        return subprocess.CompletedProcess(command, 0)

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n")
    monkeypatch.setattr(everything, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(sys, "argv", ["bench", "--write", str(page)])
    assert everything.main() == 0
    assert commands == [["bench.exactness"], ["bench.speed"]]
    assert "goal ≤ 20: pass" in capsys.readouterr().out
    written = page.read_text()
    assert written.startswith("before\n<!-- bench: begin -->\n\n")
    assert written.endswith("\n<!-- bench: end -->\nafter\n")
    assert "old" not in written
    assert "| largest relative norm difference, float32 | 16 rows | 2.0e-04 | goal ≤ 0.0001: FALLS SHORT |" in written
    assert "| times the batch-1 loop | 10 of 100 tokens | 2.00 | goals ≥ 1.8 and ≥ 2: pass |" in written


def test_the_gpu_bench_runs_on_a_cpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "--device", "cpu", "--shapes", "tiny", "--rows", "9"])
    assert gpu.main() == 0
    shown = capsys.readouterr().out
    for said in ("of the matmul peak", "times the loop", "times the loop, arithmetic alone", "tiny, factored"):
        assert said in shown


def test_a_shape_that_is_not_there_and_a_missing_gpu_are_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "--shapes", "2B"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "no shape 2B" in capsys.readouterr().err
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench.gpu"])
    assert gpu.main() == 2
    assert "--device cpu" in capsys.readouterr().err
