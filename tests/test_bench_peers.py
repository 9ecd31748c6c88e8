"""What the bench of the peers says of its figures: goals, errors, batch sizes, and the dots of its oracle."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench.loops import dot
from bench.peers.__main__ import fastest
from bench.peers.environments import last_line
from bench.peers.exchange import batch_loss, collate
from bench.peers.table import goal, markdown


def entry(peer: str, rate: float, **changed: Any) -> dict[str, Any]:
    """A result of one set of ten rows."""
    return {
        "peer": peer, "scope": "linear", "dtype": "float32", "cosine": True, "spearman": 1.0, "rows": 10,
        "largest_difference": 1e-6, "seconds": {"short": 10 / rate}, "rows_per_second": {"short": rate},
        "peak_bytes": 2e9, "left_out": "", "settings": "", **changed,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry("ripcurrent", 4.0), entry("one", 2.0), entry("two", 3.2)], "1.25 times the fastest other"),
        ([entry("ripcurrent", 4.0), entry("one", 5.0)], "0.80 times the fastest other"),
        ([entry("ripcurrent", 4.0), entry("one", 9.0, spearman=0.9)], "no other that gives cosines"),
        ([entry("ripcurrent", 4.0), entry("one", 9.0, cosine=False)], "accuracy: **pass**"),
        ([entry("ripcurrent", 4.0, spearman=0.9), entry("one", 1.0)], "**FALLS SHORT**"),
        ([{"peer": "ripcurrent", "error": "killed"}, entry("one", 1.0)], "gave no result: **FALLS SHORT**"),
    ],
)
def test_the_goal_is_to_be_faster_than_every_accurate_other(entries, said):
    assert said in goal(entries, "short")


def test_the_table_shows_errors_and_rows_left_out():
    failed = {"peer": "one", "scope": "linear", "dtype": "float32", "error": "no wheel"}
    figures = {
        "date": "2026-11-25", "machine": "a CPU", "threads": 1, "torch": "2", "anchors": 4, "counts": {"short": 20},
        "files": {"short": "rows/a.json"}, "mean_tokens": {"short": 57.0},
        "results": [entry("ripcurrent", 4.0), failed],
    }  # fmt: skip
    table = markdown(figures)
    assert "| **ripcurrent** | 2.5 | 4.00 | 2.0 | 1.0000 (10 rows) | 1e-06 | nothing |" in table
    assert "**gave no result**: no wheel" in table


def test_each_set_counts_its_fastest_batch_size():
    def result(batch: int, short: float, long: float) -> dict[str, Any]:
        seconds = {"short": short, "long": long}
        return {"batch": batch, "settings": "plain", "seconds": seconds, "scores": seconds, "peak_bytes": seconds}

    found = fastest([result(1, 4.0, 2.0), result(8, 1.0, 3.0)], {2: "killed"})
    assert found["seconds"] == {"short": 1.0, "long": 2.0}
    assert found["peak_bytes"] == 2.0
    said = "rows at once, the fastest of 1, 8: 8 (short), 1 (long); plain; failed with 2: killed"
    assert found["settings"] == said


def test_a_batchs_loss_is_the_sum_of_its_rows_means():
    rows = [{"ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}, {"ids": [5, 6], "labels": [-100, 6]}]
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 9)
    model = lambda **inputs: SimpleNamespace(logits=logits)  # noqa: E731
    of_tokens = [torch.log_softmax(logits[r, t], 0)[i] for r, t, i in ((0, 1, 3), (0, 2, 4), (1, 0, 6))]
    expected = -(of_tokens[0] + of_tokens[1]) / 2 - of_tokens[2]
    assert float(batch_loss(model, collate(rows))) == pytest.approx(float(expected), rel=1e-5)


def test_the_oracles_dot_is_summed_in_double_precision():
    one = torch.full((2**17,), 0.1)
    assert dot(one, one) == pytest.approx(2**17 * float(torch.tensor(0.1)) ** 2, rel=1e-7)


def test_an_error_is_one_line_without_folders():
    text = "Traceback\n  File x\nValueError: no file at /home/someone/of/here/model.bin\n"
    assert last_line(text) == "ValueError: no file at …/model.bin"
    assert last_line("") == "no message"
    assert len(last_line("x" * 999)) == 198
