"""How alike a set's rows pull: its own cosine to the anchors.

A step follows the mean of the rows' gradients. Rows that are alike add up in it where others cancel, so a set's own
cosine is the mean of its rows' over the norm of the mean of their unit gradients. That norm follows from the mean
cosine between two rows, the *coherence*, and from the number of rows; it is measured on a sample of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from pydantic import BaseModel, ConfigDict

from ripcurrent.data import encode_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.progress import Progress
from ripcurrent.runs import write_json
from ripcurrent.scan._run import RowNumbers, ScanRun
from ripcurrent.scan._scan_model import load_scan_model

if TYPE_CHECKING:
    from ripcurrent.gradients import GradientPass
    from ripcurrent.models import ChatModel

SUMMED = "gradient_balanced"
"""The score column that a set's own cosine is made from."""
COHERENCE = "coherence.json"
"""In a run's folder: the coherence of sets by the hash of their rows."""
FEWEST, MOST = 40, 120
"""Rows of a set that it is measured on: an eighth of them, at least and at most this many."""


class SetScore(BaseModel):
    """What a forecast needs of a set of rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    mean: float
    """Mean of ``gradient_balanced`` over its rows."""
    coherence: float
    """Mean cosine between the gradients of two of its rows."""

    def cosine(self, rows: int) -> float:
        """The set's own cosine: the mean of its rows' unit gradients to the anchors, positive as in complying."""
        squared = self.coherence + (1 - self.coherence) / rows
        # of rows that pull apart, measured on a sample, it might come out below 0
        return self.mean / math.sqrt(max(squared, 1e-4))


class SetScores:
    """Scores of sets of scanned rows. The model is loaded when a set's coherence is not known yet."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._model: tuple[ChatModel, GradientPass] | None = None

    def of(self, run: ScanRun, rows: Sequence[int] | RowNumbers, folder: Path) -> SetScore:
        """The score of a set of a scan's rows; its coherence is kept in ``folder``."""
        at = np.sort(np.asarray(rows, dtype=np.int64))
        mean = float(run.floats(SUMMED)[at].mean())
        if not np.isfinite(mean):
            raise RipcurrentError(f"Some of its rows have no {SUMMED}.", "Scan them with gradients.")
        path = folder / COHERENCE
        known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        gradients = {key: getattr(run.options, key) for key in ("scope", "max_tokens", "trainer")}
        of = [run.manifest.model.fingerprint, run.manifest.dataset.sha256, gradients]
        key = hashlib.sha256(json.dumps(of, sort_keys=True).encode() + at.astype("<i8").tobytes()).hexdigest()[:16]
        if key not in known:
            known[key] = self._measured(run, at)
            write_json(path, known)
        return SetScore(mean=mean, coherence=known[key])

    def _measured(self, run: ScanRun, rows: RowNumbers) -> float:
        from ripcurrent.gradients import GradientPass, in_memory, mean_cosine, norm_of_mean

        options = run.options
        if options.row_tokens is not None:
            raise RipcurrentError(
                "How alike rows are is measured on whole rows, and these were scored in parts.",
                "Scan without --row-tokens.",
            )
        drawn = sample_of(rows)
        if len(drawn) < 2:
            return 1.0
        # scans that are fitted together are of one model
        if self._model is None:
            self._progress.step("loading the model")
            chat_model = load_scan_model(options)
            if chat_model.fingerprint != run.manifest.model.fingerprint:
                raise RipcurrentError(
                    f"The model {options.model} has changed since {run.manifest.dataset.name} was scanned with it.",
                    "Put it back, or scan again into another folder.",
                )
            self._model = chat_model, GradientPass(chat_model)
        chat_model, gradient_pass = self._model
        self._progress.start("measuring how alike rows are", len(drawn))
        tokenizer, read = chat_model.tokenizer, run.dataset().at(drawn)
        encoded = list(encode_rows(read, tokenizer, max_tokens=options.max_tokens, trained=options.trained))
        with in_memory("The gradient of a set's rows"):
            norm = norm_of_mean(gradient_pass, encoded, run.floats("gradient_norm")[drawn], self._progress.rows)
        self._progress.finish()
        return mean_cosine(norm, len(drawn))


def sample_of(rows: RowNumbers) -> list[int]:
    """The rows of a set, ascending, that stand for it: always the same ones."""
    count = min(max(len(rows) // 8, FEWEST), MOST)
    places = np.random.default_rng([0, crc32(b"coherence")]).permutation(len(rows))[:count]
    return [int(row) for row in np.sort(rows[np.sort(places)])]
