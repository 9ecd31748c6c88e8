"""Look before a long scan: dataset, trained tokens, environment, an estimate of time and memory.

Nothing that takes seconds to import is needed before rows are shown.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue

from ripcurrent.data import Dataset, MaskCheck, MaskReport, check_masks
from ripcurrent.models import ModelInfo
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.scan._options import ScanOptions, require_combination

SAMPLE_ROWS, PROBED_ROWS = 2048, 64
"""Rows that are labelled, spread over the whole dataset, and first ones that are scanned to see how long it takes."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Finding(_Record):
    """One thing of the machine or installation that was looked at."""

    name: str
    value: str
    advice: str | None
    """What to do about it; None when nothing has to be done."""
    ok: bool


class DatasetReport(_Record):
    """A dataset as a scan would read it."""

    path: str
    container: str
    """``json``, ``jsonl``, ``csv``, ``parquet``, ``folder``, ``files`` (several at once) or ``hub``."""
    format: str
    rows: int
    unreadable: dict[str, int]
    """Reason to number of rows that reading alone shows to be unusable, of all rows."""
    first_unreadable: dict[str, int]
    """Reason to the first such row, 0-based."""
    masks: MaskCheck | None = None
    """Which tokens are trained, of all rows or of `SAMPLE_ROWS` spread over them; None before the tokenizer is read."""


class Estimate(_Record):
    """What a scan will take, predicted from the model's configuration, or from a few batches."""

    signals: str
    seconds: float
    loading_seconds: float
    anchor_seconds: float
    """The anchors; as measured their directions are in the cache now, where a scan finds them."""
    row_seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    """Peak memory of the process, or on CUDA of the device's allocations, with directions that are in the cache."""
    parameters: int
    probed_tokens: int = 0
    """Tokens of the batches that were timed; 0 where nothing was, and both times and memory are rough."""


class Diagnosis(_Record):
    """Everything that doctor looked at."""

    environment: list[Finding] = []
    model: ModelInfo | None = None
    dataset: DatasetReport | None = None
    estimates: list[Estimate] = []
    """What a scan takes; none without a dataset or without a usable row."""

    def to_json(self) -> dict[str, JsonValue]:
        """What ``--json`` prints."""
        return self.model_dump(mode="json")


def doctor(dataset: str | Path | None = None, *, progress: Progress | None = None, **changes: Any) -> Diagnosis:
    """Look at a dataset by the tokenizer alone, at the environment, and at what a scan takes.

    ``probe=True`` scans a few rows and times that; without a dataset a model is loaded where it is named. Other
    ``changes`` are options of the scan by name. Raises `RipcurrentError` for what a scan would refuse.
    """
    *_, found = examine(dataset, progress=progress, **changes)
    return found


def examine(
    dataset: str | Path | None = None, *, probe: bool = False, progress: Progress | None = None, **changes: Any
) -> Iterator[Diagnosis]:
    """What `doctor` finds, step by step: each time all that is known by then."""
    options, progress = ScanOptions.resolve(None, changes), progress or SilentProgress()
    found, tokens = Diagnosis(), 0.0
    if dataset is not None:
        rows = options.open(dataset)
        require_combination(options, rows.format)
        progress.step("reading the dataset")
        about = _read(rows)
        yield Diagnosis(dataset=about)
        progress.step("labelling the tokens that are trained")
        about, masks = _labelled(rows, about, options)
        yield (found := Diagnosis(dataset=about))
        tokens = masks.tokens * about.rows / masks.rows
    from ripcurrent.scan._machine import environment, predicted

    progress.step("looking at the environment")
    yield (found := found.model_copy(update={"environment": environment(options.device, options.dtype)}))
    if dataset is None and changes.get("model") is not None:
        from ripcurrent.scan._passes import ScanPasses
        from ripcurrent.scan._scan_model import load_scan_model

        yield found.model_copy(update={"model": ScanPasses(load_scan_model(options), options).model})
    elif tokens and probe:
        yield found.model_copy(update=_measured(dataset, options, tokens, progress))
    elif tokens:
        progress.step("estimating time and memory from the model's configuration")
        yield found.model_copy(update={"estimates": [predicted(options, tokens)]})


def _read(rows: Dataset) -> DatasetReport:
    """What reading alone shows."""
    count, first, unreadable = 0, dict[str, int](), Counter[str]()
    for count, row in enumerate(rows, 1):  # noqa: B007
        if row.problem is not None:
            unreadable[row.problem] += 1
            first.setdefault(row.problem, row.index)
    named = {name: getattr(rows, name) for name in ("path", "container", "format")}
    return DatasetReport(**named, rows=count, unreadable=dict(unreadable), first_unreadable=first)


def _labelled(rows: Dataset, about: DatasetReport, options: ScanOptions) -> tuple[DatasetReport, MaskReport]:
    """The same with what the tokenizer shows."""
    from ripcurrent.models import load_tokenizer

    tokenizer = load_tokenizer(options.model, adapter=options.adapter)
    places = np.linspace(0, about.rows - 1, min(SAMPLE_ROWS, about.rows)).round().astype(int).tolist()
    sample = rows if len(places) == about.rows else list(rows.at(places))
    masks = check_masks(sample, tokenizer, [options.trained], options.max_tokens)
    return about.model_copy(update={"masks": masks}), masks.reports[0]


def _measured(dataset: str | Path | None, options: ScanOptions, tokens: float, progress: Progress) -> dict[str, Any]:
    """The model, and what a scan of so many tokens takes, from one of the first rows. Its directions are kept."""
    from ripcurrent.scan._scan import scan

    few = ScanOptions.resolve(options, {"limit": min(PROBED_ROWS, options.limit or PROBED_ROWS), "anchor_check": False})
    with tempfile.TemporaryDirectory() as folder:
        run = scan(dataset, Path(folder) / "run", few, progress=progress)
        probed = int(sum(run.floats(name)[run.scored].sum() for name in ("prompt_tokens", "response_tokens")))
    took, peak = run.manifest.timings, run.manifest.memory.get("device_peak_bytes")
    row_seconds = tokens * took["signals"] / probed
    estimate = Estimate(
        signals=options.signals,
        seconds=took["load"] + took["anchors"] + row_seconds,
        loading_seconds=took["load"],
        anchor_seconds=took["anchors"],
        row_seconds=row_seconds,
        tokens_per_second=probed / took["signals"],
        peak_memory_bytes=int(str(peak or run.manifest.peak_memory_bytes)),
        parameters=run.manifest.model.parameters or 0,
        probed_tokens=probed,
    )
    return {"model": run.manifest.model, "estimates": [estimate]}
