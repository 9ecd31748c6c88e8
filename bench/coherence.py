"""How alike the gradients of a set's rows are, and what a set's score is for that. ``python -m bench.coherence RUN``.

For the riskiest, random and the most protective rows of a finished scan with gradients: the norm of the mean of their
unit gradients, the mean cosine between two rows' gradients, and the set's own cosine: the mean ``gradient_balanced``
over that norm, which is how the mean of the unit gradients, not each of them, lies to the anchors. All of a set's rows
are measured, where `calibrate --by set_cosine` takes some. One pass over them and the float32 memory of one gradient.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.scanned import open_run
from ripcurrent.data import EncodedRow, encode_rows
from ripcurrent.gradients import GradientPass, mean_cosine, norm_of_mean
from ripcurrent.select import draw_random


@dataclass(frozen=True, slots=True)
class Coherence:
    """What the unit gradients of a set's rows have in common."""

    rows: int
    """Rows of the set."""
    norm: float
    """Norm of the mean of their unit gradients, 0 to 1."""

    @property
    def pairwise(self) -> float:
        """Mean cosine between the gradients of two different rows; NaN of one row."""
        return mean_cosine(self.norm, self.rows)


def measure(gradient_pass: GradientPass, rows: Sequence[EncodedRow], norms: npt.NDArray[np.float64]) -> Coherence:
    """The coherence of rows whose gradients have these norms."""
    return Coherence(len(rows), norm_of_mean(gradient_pass, rows, norms))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished scan with gradients")
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--by", default="gradient_bidirectional")
    parser.add_argument("--seed", type=int, default=0, help="of the random rows")
    arguments = parser.parse_args(argv)
    scanned, chat_model = open_run(arguments.run)
    scored, options = scanned.scored, scanned.options
    values = scored.scores(arguments.by)
    order = np.flatnonzero(np.isfinite(values))
    order = order[np.argsort(-values[order], kind="stable")]
    size = min(arguments.size, len(order))
    random = scored.positions(draw_random(scanned.table, size, arguments.seed).indices)
    gradient_pass = GradientPass(chat_model)
    sets = {"riskiest": order[:size], "random": random, "protective": order[-size:]}
    wanted = {int(row) for places in sets.values() for row in scored.rows[places]}
    encoded = {
        row.index: row
        for row in encode_rows(
            scanned.dataset.at(wanted), chat_model.tokenizer, max_tokens=options.max_tokens, loss_on=options.loss_on
        )
    }
    print("set           rows  norm of mean  mean cosine of two rows  mean gradient_balanced  the set's cosine")
    for name, places in sets.items():
        rows = [encoded[int(row)] for row in scored.rows[places]]
        found = measure(gradient_pass, rows, scored.numbers("gradient_norm")[places].astype(np.float64))
        balanced = float(scored.numbers("gradient_balanced")[places].mean())
        print(
            f"{name:<12}  {found.rows:>4}  {found.norm:>12.3f}  {found.pairwise:>23.3f}  {balanced:>+22.4f}  "
            f"{balanced / found.norm:>+16.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
