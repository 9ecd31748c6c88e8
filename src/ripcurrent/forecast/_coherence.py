"""How alike the gradients of a set's rows are: what turns the mean of its rows' scores into the score of the set.

A step follows the mean of the rows' gradients. Rows that are alike add up in it where others cancel, so that a set's
own cosine is the mean of its rows' over the norm of the mean of their unit gradients. That norm follows from the mean
cosine between two rows, the *coherence*, and from how many they are; it is measured on a few of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ripcurrent.data import Dataset, DatasetInfo, encode_rows, open_unchanged
from ripcurrent.errors import RipcurrentError
from ripcurrent.forecast._trained_rows import ScoredSource
from ripcurrent.gradients import GradientPass, in_memory, mean_cosine, norm_of_mean
from ripcurrent.models import ChatModel
from ripcurrent.progress import Progress
from ripcurrent.runs import read_manifest, write_json
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.select_old._draw import generator
from ripcurrent.select_old._table import ScoredRows

FILE = "coherence.json"
"""In a run's folder: the coherence of sets by the hash of their rows."""
MOVED = "Put it back where it was scanned, or forecast by a score column (--by), which needs no rows."
"""What to do where the rows of a finished run are not there any more."""
FEWEST, MOST = 40, 120
"""Rows of a set that it is measured on: an eighth of them, at least and at most so many."""

Rows = Sequence[int] | npt.NDArray[np.int64]
"""Numbers of rows."""
Coherence = Callable[[Rows], float]
"""From the numbers of a set's rows to their mean cosine."""


def coherence_of(
    rows: Rows,
    dataset: Dataset,
    scored: ScoredRows,
    options: ScanOptions,
    chat_model: ChatModel,
    gradient_pass: GradientPass,
) -> float:
    """The mean cosine between the gradients of two of a set's rows, on some of them; 1 of one row.

    Args:
        rows: Row numbers of the set.
        dataset: The rows that were scanned.
        scored: Their scores, with the gradients' norms.
        options: What they were scored with.
        chat_model: The model that scored them.
        gradient_pass: Its gradients.

    Raises:
        RipcurrentError: They were scored in windows, or by their first tokens alone; or memory runs out.
    """
    if options.windows or options.row_tokens is not None:
        raise RipcurrentError(
            "How alike rows are is measured on whole rows, and these were scored in parts.",
            "Scan without --windows and --row-tokens, or forecast by another column.",
        )
    drawn = sample_of(rows)
    if len(drawn) < 2:
        return 1.0
    found = {
        row.index: row
        for row in encode_rows(
            dataset.at(drawn),
            chat_model.tokenizer,
            max_tokens=options.max_tokens,
            loss_on=options.loss_on,
        )
    }
    norms = scored.numbers("gradient_norm")[scored.positions(drawn)].astype(np.float64)
    with in_memory("The gradient of a set's rows"):
        norm = norm_of_mean(gradient_pass, [found[row] for row in drawn], norms)
    return mean_cosine(norm, len(drawn))


def sample_of(rows: Rows) -> list[int]:
    """The rows of a set that stand for it, always the same ones, in the dataset's order."""
    ordered = np.sort(np.asarray(rows, dtype=np.int64))
    count = min(max(len(ordered) // 8, FEWEST), MOST)
    places = generator(0, "coherence").permutation(len(ordered))[:count]
    found: list[int] = ordered[np.sort(places)].tolist()
    return found


def kept_in(folder: Path, measure: Coherence | None, *, of: str = "") -> Coherence:
    """The coherence of rows as a run's folder has it; what is new there is measured, and kept.

    ``of`` tells apart what may be kept in one folder besides the rows' numbers: another dataset or other gradients.

    Raises (when called):
        RipcurrentError: A set is new, and there is nothing to measure it with.
    """

    def known(rows: Rows) -> float:
        path = folder / FILE
        values: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        numbers = np.sort(np.asarray(rows, dtype="<i8")).tobytes()
        key = hashlib.sha256(of.encode() + numbers).hexdigest()[:16]
        if key not in values:
            if measure is None:
                raise RipcurrentError(
                    "How alike its rows' gradients are was not measured.",
                    "Give the whole scan again in its folder, with the same --forecast and without --shard, Ray and "
                    "--memory: nothing is scored anew.",
                )
            values[key] = measure(rows)
            write_json(path, values)
        return values[key]

    return known


class CoherenceOfRuns:
    """Measures the rows of finished runs with the model that their scan was made with, which is loaded when needed."""

    def __init__(self, progress: Progress) -> None:
        """Nothing is loaded yet."""
        self._told = progress
        self._model: tuple[ChatModel, GradientPass] | None = None

    def __call__(self, source: ScoredSource, rows: Sequence[int], place: Path) -> float:
        """The coherence of rows of a source, kept in ``place``.

        Raises:
            RipcurrentError: Its rows or the model cannot be read any more, or are others now.
        """
        manifest = read_manifest(source.folder)

        def measure(rows: Rows) -> float:
            options = ScanOptions(**manifest["options"])
            chat_model, gradient_pass = self._loaded(options, manifest)
            self._told.step(f"how alike rows are: {place.name}")
            info = DatasetInfo.model_validate(manifest["dataset"])
            dataset = open_unchanged(info, limit=options.limit, moved=MOVED)
            return coherence_of(rows, dataset, source.scored, options, chat_model, gradient_pass)

        gradients = {key: manifest["options"].get(key) for key in ("scope", "max_tokens", "loss_on")}
        of = [manifest["model"]["fingerprint"], manifest["dataset"]["sha256"], gradients]
        return kept_in(place, measure, of=json.dumps(of, sort_keys=True))(rows)

    def _loaded(self, options: ScanOptions, manifest: Mapping[str, Any]) -> tuple[ChatModel, GradientPass]:
        # scans that are fitted together are of one model
        if self._model is None:
            self._told.step("loading the model")
            chat_model = load_scan_model(options)
            if chat_model.fingerprint != manifest["model"]["fingerprint"]:
                raise RipcurrentError(
                    f"The model {options.model} has changed since {manifest['dataset']['name']} was scanned with it.",
                    "Put it back, or forecast by a score column (--by), which needs no model.",
                )
            self._model = chat_model, GradientPass(chat_model)
        return self._model
