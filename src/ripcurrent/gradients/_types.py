"""What one pass over a batch yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Position = Literal["last", "last_content", "mean_response", "last_prompt"]
"""Which token's state represents a row: the last trained one (end of turn and template tail included), the last of the
answer's own text, the mean over the answer, or the last before it."""

SignalKind = Literal["all", "gradient", "representation"]
"""Which of the two methods runs."""


@dataclass(frozen=True, slots=True)
class BatchSignals:
    """What one batch yields, in the batch's order; parts that were not asked for are None."""

    dots: npt.NDArray[np.float64] | None = None
    """Inner products of each row's gradient with the directions, shape ``(rows, directions)``."""
    squared_norm: npt.NDArray[np.float64] | None = None
    """Each row's squared gradient norm, shape ``(rows,)``."""
    loss: npt.NDArray[np.float64] | None = None
    """Mean cross-entropy over the loss-bearing tokens in nats, shape ``(rows,)``."""
    loss_first_10: npt.NDArray[np.float64] | None = None
    """The same over the first ten of them, shape ``(rows,)``."""
    features: npt.NDArray[np.float32] | None = None
    """Each row's state at the chosen layer and position, shape ``(rows, width)``."""
