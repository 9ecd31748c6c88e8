"""The GPU bench runs to its end without a GPU, agrees with the loop, and says what every figure is."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import gpu


def test_a_tiny_shape_on_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    given = ["bench.gpu", "--device", "cpu", "--shapes", "tiny", "--rows", "9", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", given)

    assert gpu.main() == 0

    shown = capsys.readouterr().out
    for said in ("of the matmul peak", "times the loop, dense", "times the loop, arithmetic alone", "factored"):
        assert said in shown
    found = json.loads(out.read_text())["tiny"]
    assert found["out_of_memory"] == {}
    for tokens in ("180", "57"):
        assert found[tokens]["rows"] == 9
        assert found[tokens]["spearman_with_loop"] > 0.9
        assert set(found[tokens]["seconds"]) == {"forward", "representation", "dense", "factored"}


def test_batches_that_do_not_fit_are_halved_and_their_size_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = gpu.each

    def full(function: Any, batches: Any) -> None:
        if not isinstance(function, partial) or "directions" not in function.keywords:
            return usual(function, batches)
        if max(batch.ids.numel() for batch in batches) > 1100:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return usual(function, batches)

    monkeypatch.setattr(gpu, "each", full)
    out = tmp_path / "figures.json"
    given = ["bench.gpu", "--device", "cpu", "--shapes", "tiny", "--rows", "40", "--budget", "2048", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", given)

    assert gpu.main() == 0

    assert "ran out of memory; again with batches of 1024 tokens" in capsys.readouterr().out
    found = json.loads(out.read_text())["tiny"]
    assert found["budgets"] == {"dense": 1024, "factored": 1024}
    assert {"dense", "factored"} <= set(found["57"]["seconds"])


def test_a_shape_that_is_not_there_and_a_missing_gpu_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "--shapes", "2B"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "no shape 2B" in capsys.readouterr().err
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench.gpu"])
    assert gpu.main() == 2
    assert "--device cpu" in capsys.readouterr().err
