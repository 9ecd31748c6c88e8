"""Look before a long scan: environment, dataset, one row as it will be trained, a forecast of time and memory."""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue

from ripcurrent.anchors import load_anchors
from ripcurrent.data import Dataset, EncodedRow, Row, read_rows, render, why_mismatch
from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import SignalKind, plan_batches
from ripcurrent.models import ModelInfo, cache_folder, device_peak, give_back_freed_memory, peak_bytes, reset_peak
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import RunFolder
from ripcurrent.scan._environment import Finding, environment
from ripcurrent.scan._options import ScanOptions, require_combination
from ripcurrent.scan._passes import ScanPasses
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.scan._signal_stage import PreparedRow
from ripcurrent.scan._windows import document_row

SAMPLE_ROWS = 512
"""Rows that are encoded, spread over the whole dataset."""
TIMED_BATCHES = 6
"""Batches that are timed, spread over the lengths: short rows cost more per token, long ones more for attention."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class RenderedRow(_Record):
    """One row exactly as it is tokenised."""

    row: int
    """0-based position in the input."""
    tokens: int
    """Tokens, up to the last one that bears loss."""
    response_tokens: int
    """Tokens that bear loss."""
    truncated: bool
    """Cut at ``--max-tokens``."""
    text: str
    """Its text up to the last token."""
    loss_spans: list[tuple[int, int]]
    """Stretches of the text that bear loss, in characters."""


class DatasetReport(_Record):
    """A dataset as a scan would read it."""

    path: str
    """As given."""
    container: str
    """``json``, ``jsonl``, ``csv``, ``parquet``, ``folder``, ``files`` (several at once) or ``hub``."""
    format: str
    """Name of the row format."""
    rows: int = 0
    """Number of rows."""
    unreadable: dict[str, int] = {}
    """Reason to number of rows that reading alone shows to be unusable, of all rows."""
    sampled: int
    """Rows that were encoded, spread over the dataset."""
    sample_unusable: dict[str, int]
    """Reason to number of sampled rows that cannot be scored, the unreadable ones among them."""
    first_unusable: dict[str, int]
    """Reason to the first row that has it, 0-based: of all rows where reading alone shows it, else of the sampled."""
    mismatch: str | None
    """What the template says of the first sampled row that it refuses or whose turns it hides; None without one."""
    sample_unread: int
    """Sampled rows with tool calls or reasoning, which are not read."""
    mean_tokens: float | None = None
    """Mean tokens of the sample's usable rows, with ``windows`` of whole documents; None when there is none, as with
    the others below."""
    median_tokens: float | None = None
    """Their median."""
    longest_tokens: int | None = None
    """Their longest, after cutting at ``--max-tokens``, with ``windows`` the longest window."""
    mean_response_tokens: float | None = None
    """Mean of the tokens that bear loss."""
    truncated_share: float | None = None
    """Share of the usable rows that are cut at ``--max-tokens``, 0 to 1."""
    sample_row: RenderedRow | None = None
    """A row of typical length, or its first window."""


class Estimate(_Record):
    """What a scan will take, predicted from a few batches."""

    signals: SignalKind
    """Which methods the scan runs."""
    seconds: float
    """Loading, anchors and rows."""
    loading_seconds: float
    """Loading the model, as measured."""
    anchor_seconds: float
    """The anchors, as measured: their directions are in the cache now, where a scan finds them."""
    row_seconds: float
    """Scoring the rows."""
    tokens_per_second: float
    """Tokens scored in a second, padding not counted."""
    peak_memory_bytes: int
    """Peak memory of the process, or on CUDA of the device's allocations, with directions that are in the cache."""
    probed_rows: int
    """Rows that were timed."""
    probed_tokens: int
    """Their tokens."""


class Diagnosis(_Record):
    """Everything that doctor looked at."""

    environment: list[Finding]
    """Machine and installation."""
    model: ModelInfo | None = None
    """The model, where one was loaded."""
    dataset: DatasetReport | None = None
    """The dataset, where one was given."""
    estimates: list[Estimate] = []
    """The forecast of the scan; none without a dataset or without a usable row."""

    def to_json(self) -> dict[str, JsonValue]:
        """What ``--json`` prints."""
        return self.model_dump(mode="json")


def doctor(
    dataset: str | Path | None = None, *, model: str | None = None, progress: Progress | None = None, **changes: Any
) -> Diagnosis:
    """Look at the environment; with a dataset or a model also at these, and with a dataset forecast the scan.

    Args:
        dataset: Anything that :func:`ripcurrent.read_rows` reads.
        model: A model; with a dataset :class:`ScanOptions`' default unless named.
        progress: Called with steps.
        **changes: Options of the scan by name.

    Raises:
        RipcurrentError: A dataset or model that a scan would refuse, or an option that it does not take.
    """
    options = ScanOptions.resolve(None, changes if model is None else {**changes, "model": model})
    if options.device == "auto":
        raise RipcurrentError(
            "doctor measures on one device, and does not know whether a model spread over several GPUs fits on each.",
            "One GPU is needed: leave --device auto out, or scan a few rows with it (--limit 100).",
        )
    progress = progress or SilentProgress()
    progress.step("looking at the environment")
    findings = environment(options.device, options.dtype)
    if dataset is None:
        passes = None if model is None else ScanPasses(load_scan_model(options), options)
        return Diagnosis(environment=findings, model=None if passes is None else passes.model)
    rows = read_rows(dataset, format=options.format, mapping=options.mapping, limit=options.limit)
    require_combination(options, rows.format)
    progress.step("reading the dataset")
    count, first, unreadable = 0, dict[str, int](), Counter[str]()
    for count, row in enumerate(rows, 1):  # noqa: B007
        if row.problem is not None:
            unreadable[row.problem] += 1
            first.setdefault(row.problem, row.index)
    progress.step("loading the model")
    began = time.perf_counter()
    passes = ScanPasses(load_scan_model(options), options)
    loading = time.perf_counter() - began
    progress.step("encoding a sample")
    places = np.unique(np.linspace(0, max(0, count - 1), min(SAMPLE_ROWS, count)).round().astype(int))
    sample = list(passes.stage_of(None, None, progress).prepare(rows.at(places.tolist())))
    report, usable = _report(rows, sample, passes)
    first = report.first_unusable | first
    report = report.model_copy(update={"rows": count, "unreadable": dict(unreadable), "first_unusable": first})
    estimates = []
    if usable:
        share = len(usable) / len(sample)
        estimates = [_estimate(passes, rows, usable, count * share, loading, progress)]
    return Diagnosis(environment=findings, model=passes.model, dataset=report, estimates=estimates)


def _report(
    rows: Dataset, sample: Sequence[PreparedRow], passes: ScanPasses
) -> tuple[DatasetReport, list[PreparedRow]]:
    """What the sample says, and its usable rows."""
    by_status: dict[str, list[PreparedRow]] = {}
    for one in sample:
        by_status.setdefault(one.pieces[0].status, []).append(one)
    usable, hidden = by_status.pop("ok", []), by_status.get("template_mismatch")
    tokenizer, loss_on = passes.chat_model.tokenizer, passes.options.loss_on
    lengths: dict[str, Any] = {}
    if usable:
        whole = [document_row(one.pieces) for one in usable]
        tokens = np.asarray([one.prompt_tokens + one.response_tokens for one in whole])
        typical = usable[int(np.abs(tokens - np.median(tokens)).argmin())]
        lengths = {
            "mean_tokens": tokens.mean(),
            "median_tokens": np.median(tokens),
            "longest_tokens": max(len(one.pieces[0].tokens) for one in usable),
            "mean_response_tokens": np.mean([one.response_tokens for one in whole]),
            "truncated_share": np.mean([one.pieces[0].truncated for one in usable]),
            "sample_row": rendered_row(typical.row, typical.pieces[0], tokenizer),
        }
    report = DatasetReport(
        path=rows.path,
        container=rows.container,
        format=rows.format,
        sampled=len(sample),
        sample_unusable={status: len(found) for status, found in by_status.items()},
        first_unusable={status: found[0].row.index for status, found in by_status.items()},
        mismatch=why_mismatch(hidden[0].row, tokenizer, loss_on) if hidden else None,
        sample_unread=sum(one.unread for one in sample),
        **lengths,
    )
    return report, usable


def rendered_row(row: Row, encoded: EncodedRow, tokenizer: Any) -> RenderedRow:
    """An encoded row's text, with the stretches that bear loss."""
    text, mask = render(row, tokenizer), encoded.loss_mask
    tokens = tokenizer(text, add_special_tokens=row.text is not None, return_offsets_mapping=True, verbose=False)
    offsets = tokens["offset_mapping"][: len(mask)]
    # a token reaches up to the next one, as offsets may leave out the white space between them; one that is not in the
    # text, such as an appended end, has the offset 0
    edges = [*(start for start, _ in offsets), max(end for _, end in offsets)]
    stretches = np.flatnonzero(np.diff(mask.astype(int), prepend=0, append=0)).reshape(-1, 2).tolist()
    return RenderedRow(
        row=row.index,
        tokens=len(mask),
        response_tokens=encoded.response_tokens,
        truncated=encoded.truncated,
        text=text[: edges[-1]],
        loss_spans=[(edges[first], edges[after]) for first, after in stretches],
    )


def _estimate(
    passes: ScanPasses, rows: Dataset, sample: Sequence[PreparedRow], count: float, loading: float, progress: Progress
) -> Estimate:
    """Prepare the anchors, time a few batches of a sample of the rows, and predict the scan of ``count`` rows.

    Raises:
        RipcurrentError: The directions or a row do not fit into memory, or not within ``--memory``.
    """
    chat_model, options = passes.chat_model, passes.options
    peak, began = device_peak(chat_model.device), time.perf_counter()
    anchors = passes.anchors(load_anchors(options.anchors), progress)
    anchor_seconds = time.perf_counter() - began
    progress.step("timing a few batches")
    give_back_freed_memory()
    reset_peak(chat_model.device)
    cache_folder().mkdir(parents=True, exist_ok=True)
    # directions that do not fit go to files of a run, as in a scan
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder, RunFolder(Path(folder), {}) as run:
        stage = passes.stage(anchors, run, rows, SilentProgress())
        tokens = [sum(len(piece.tokens) for piece in row.pieces) for row in sample]
        plan = plan_batches(tokens, stage.token_budget)
        spread = np.linspace(0, len(plan) - 1, min(TIMED_BATCHES, len(plan))).round().astype(int)
        # first calls are slow, and the longest rows make the peak
        stage.compute([sample[place] for place in plan[0]])
        began = time.perf_counter()
        for number in spread:
            stage.compute([sample[place] for place in plan[number]])
        seconds = time.perf_counter() - began
    probed = [tokens[place] for number in spread for place in plan[number]]
    rate = sum(probed) / seconds
    row_seconds = count * sum(tokens) / len(tokens) / rate
    return Estimate(
        signals=options.signals,
        seconds=loading + anchor_seconds + row_seconds,
        loading_seconds=loading,
        anchor_seconds=anchor_seconds,
        row_seconds=row_seconds,
        tokens_per_second=rate,
        peak_memory_bytes=max(peak, peak_bytes(chat_model.device)),
        probed_rows=len(probed),
        probed_tokens=sum(probed),
    )
