"""Look before a long scan: environment, dataset, one row as it will be trained, a forecast of time and memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

from ripcurrent.data import Dataset, Row, read_rows, why_mismatch
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import ModelInfo, choose_device, describe
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.scan._environment import Finding, environment, free_memory, size
from ripcurrent.scan._estimate import Estimate, estimate_scan
from ripcurrent.scan._options import ScanOptions, require_combination
from ripcurrent.scan._passes import ScanPasses
from ripcurrent.scan._rendered_row import RenderedRow, rendered_row
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.scan._signal_stage import PreparedRow
from ripcurrent.scan._windows import document_row

SAMPLE_ROWS = 512
"""Rows that are encoded, spread over the whole dataset."""


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """A dataset as a scan would read it."""

    path: str
    """As given."""
    container: str
    """``json``, ``jsonl``, ``csv``, ``parquet``, ``folder``, ``files`` (several at once) or ``hub``."""
    format: str
    """Name of the row format."""
    rows: int
    """Number of rows."""
    unreadable: dict[str, int]
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


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that doctor looked at."""

    environment: tuple[Finding, ...]
    """Machine and installation; with a dataset also whether the scan fits into memory."""
    model: ModelInfo | None = None
    """The model, where one was loaded."""
    dataset: DatasetReport | None = None
    """The dataset, where one was given."""
    estimates: tuple[Estimate, ...] = ()
    """Forecasts of the scan; none without a dataset or without a usable row."""

    def to_json(self) -> dict[str, JsonValue]:
        """What ``--json`` prints."""
        report = None if self.dataset is None else asdict(self.dataset)
        if self.dataset is not None and report is not None and self.dataset.sample_row is not None:
            report["sample_row"] = self.dataset.sample_row.to_json()
        return {
            "environment": [{**asdict(finding), "ok": finding.ok} for finding in self.environment],
            "model": None if self.model is None else self.model.model_dump(mode="json"),
            "dataset": report,
            "estimates": [asdict(estimate) for estimate in self.estimates],
        }


def doctor(
    dataset: str | Path | None = None,
    *,
    model: str | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Diagnosis:
    """Look at the environment; with a dataset at its rows; with a dataset or a model at the model, and forecast a scan.

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
        if model is None:
            return Diagnosis(tuple(findings))
        progress.step("loading the model")
        # a layer that is not covered is an error here
        passes = ScanPasses(load_scan_model(options, for_rows=False), options)
        return Diagnosis(tuple(findings), passes.model)
    free = free_memory(choose_device(options.device))
    rows = read_rows(dataset, format=options.format, mapping=options.mapping, limit=options.limit)
    require_combination(options, rows.format)
    progress.step("reading the dataset")
    count, unreadable, first = _read_through(rows)
    began = time.perf_counter()
    progress.step("loading the model")
    passes = ScanPasses(load_scan_model(options), options)
    loading = time.perf_counter() - began
    progress.step("encoding a sample")
    places = np.unique(np.linspace(0, max(0, count - 1), min(SAMPLE_ROWS, count)).round().astype(int))
    sample = list(passes.stage_of(None, None, progress).prepare(rows.at(places.tolist())))
    report = _report(rows, count, unreadable, first, sample, passes)
    usable = [row for row in sample if row.pieces[0].status == "ok"]
    estimates: list[Estimate] = []
    kinds = ["representation"] if options.signals == "all" and options.memory is None else []
    for signals in [*kinds, options.signals] if usable else []:
        progress.step(f"timing a few batches ({signals})")
        # representations first: a process's peak only ever rises
        chosen = ScanPasses(passes.chat_model, options.model_copy(update={"signals": signals, "tokens": None}))
        estimates.append(estimate_scan(chosen, usable, count * len(usable) / len(sample), loading, progress))
    if estimates:
        findings.append(_fits(estimates[-1], free, options))
    return Diagnosis(tuple(findings), describe(passes.chat_model), report, tuple(estimates))


def _read_through(rows: Dataset) -> tuple[int, Counter[str], dict[str, int]]:
    """Number of rows, why some cannot be used, and the first row of each reason."""
    unreadable: Counter[str] = Counter()
    first: dict[str, int] = {}
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        if row.problem is not None:
            unreadable[row.problem] += 1
            first.setdefault(row.problem, row.index)
    return count, unreadable, first


def _report(
    rows: Dataset,
    count: int,
    unreadable: Counter[str],
    first: dict[str, int],
    sample: Sequence[PreparedRow],
    passes: ScanPasses,
) -> DatasetReport:
    tokenizer, loss_on = passes.chat_model.tokenizer, passes.options.loss_on
    statuses = [row.pieces[0].status for row in sample]
    hidden: list[Row] = [row.row for row, s in zip(sample, statuses, strict=True) if s == "template_mismatch"]
    for row, status in zip(sample, statuses, strict=True):
        if status != "ok":
            first = {status: row.row.index, **first}
    report = DatasetReport(
        path=rows.path,
        container=rows.container,
        format=rows.format,
        rows=count,
        unreadable=dict(unreadable),
        sampled=len(sample),
        sample_unusable=dict(Counter(status for status in statuses if status != "ok")),
        first_unusable=first,
        mismatch=why_mismatch(hidden[0], tokenizer, loss_on) if hidden else None,
        sample_unread=sum(row.unread for row in sample),
    )
    usable = [row for row, status in zip(sample, statuses, strict=True) if status == "ok"]
    if not usable:
        return report
    whole = [document_row(row.pieces) for row in usable]
    lengths = np.asarray([row.prompt_tokens + row.response_tokens for row in whole])
    typical = usable[int(np.abs(lengths - np.median(lengths)).argmin())]
    return replace(
        report,
        mean_tokens=float(lengths.mean()),
        median_tokens=float(np.median(lengths)),
        longest_tokens=max(len(row.pieces[0].tokens) for row in usable),
        mean_response_tokens=float(np.mean([row.response_tokens for row in whole])),
        truncated_share=float(np.mean([row.pieces[0].truncated for row in usable])),
        sample_row=rendered_row(typical.row, typical.pieces[0], tokenizer),
    )


def _fits(estimate: Estimate, free: int | None, options: ScanOptions) -> Finding:
    value = f"the scan needs about {size(estimate.peak_memory_bytes)}"
    advice = None
    if options.memory is not None and estimate.peak_memory_bytes > options.memory:
        value += f", more than --memory {size(options.memory)}: rows would keep to it, the anchors' directions not"
        advice = "Compute these once where there is more memory and bring RIPCURRENT_CACHE, or use --scope lora."
    elif free is not None and estimate.peak_memory_bytes > free:
        value += f", and {size(free)} are free"
        advice = "Use --signals representation, a smaller --max-tokens, --dtype bfloat16, or a larger machine."
    return Finding("memory for the scan", value, advice)
