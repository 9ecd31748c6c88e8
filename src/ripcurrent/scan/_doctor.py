"""Look before a long scan: environment, dataset, one row as it will be trained, a forecast of time and memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ripcurrent.data import (
    Dataset,
    EncodedRow,
    Row,
    encode_rows,
    encode_windows,
    has_unread,
    read_rows,
    traits_of,
    why_mismatch,
)
from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import GradientPass
from ripcurrent.models import ChatModel, choose_device, describe
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.scan._environment import Finding, environment, free_memory, size
from ripcurrent.scan._options import ScanOptions, require_combination
from ripcurrent.scan._probe import Estimate, estimate_scan
from ripcurrent.scan._rendered_row import RenderedRow, rendered_row
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.scan._signal_stage import PreparedRow
from ripcurrent.scan._windows import document_row

Item = TypeVar("Item")

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
    """Reason to number of rows that reading alone finds unusable, of all rows."""
    sampled: int
    """Rows that were encoded, spread over the dataset."""
    sample_unusable: dict[str, int]
    """Reason to number of sampled rows that cannot be scored, the unreadable ones among them."""
    first_unusable: dict[str, int]
    """Reason to the first row that has it, 0-based: of all rows where reading alone finds it, else of the sampled."""
    mismatch: str | None
    """What the template says of the first sampled row that it refuses or whose turns it hides; None without one."""
    sample_unread: int
    """Sampled rows with tool calls or reasoning, which are not read."""
    mean_tokens: float | None
    """Mean tokens of the sample's usable rows, with ``windows`` of whole documents; None when there is none, as with
    the others below."""
    median_tokens: float | None
    """Their median."""
    longest_tokens: int | None
    """Their longest, after cutting at ``--max-tokens``, with ``windows`` the longest window."""
    mean_response_tokens: float | None
    """Mean of the tokens that bear loss."""
    truncated_share: float | None
    """Share of the usable rows that are cut at ``--max-tokens``, 0 to 1."""
    sample_row: RenderedRow | None
    """A row of typical length, or its first window."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that doctor found."""

    environment: tuple[Finding, ...]
    """Machine and installation; with a dataset also whether the scan fits into memory."""
    model: dict[str, str | int | None] | None
    """The model, where one was loaded."""
    dataset: DatasetReport | None
    """The dataset, where one was given."""
    estimates: tuple[Estimate, ...]
    """Forecasts of the scan; none without a dataset or without a usable row."""

    def as_json(self) -> dict[str, Any]:
        """One JSON-ready object."""
        found = self.dataset
        row = found.sample_row if found is not None else None
        return {
            "environment": [{**asdict(finding), "ok": finding.ok} for finding in self.environment],
            "model": self.model,
            "dataset": None
            if found is None
            else {**asdict(found), "sample_row": None if row is None else row.as_json()},
            "estimates": [asdict(estimate) for estimate in self.estimates],
        }


class Spread(Generic[Item]):
    """Keeps up to ``SAMPLE_ROWS`` of a stream's items at even distances, however many come."""

    def __init__(self) -> None:
        self.count = 0
        """Items that came."""
        self._kept: list[Item] = []
        self._stride = 1

    def take(self, item: Item) -> None:
        """Keep an item, or pass it over."""
        if self.count % self._stride == 0:
            self._kept.append(item)
            if len(self._kept) == 2 * SAMPLE_ROWS:
                self._kept = self._kept[::2]
                self._stride *= 2
        self.count += 1

    def kept(self) -> list[Item]:
        """What is kept, in order."""
        last = len(self._kept) - 1
        places = np.unique(np.linspace(0, last, min(SAMPLE_ROWS, len(self._kept))).round().astype(int))
        return [self._kept[place] for place in places]


@dataclass(frozen=True, slots=True)
class SampledRow:
    """A row of the sample as it is encoded."""

    first: EncodedRow
    """The row, or its first window, of which none is longer than by rounding."""
    tokens: int
    """Tokens of all of it."""
    response_tokens: int
    """Those that bear loss."""


def diagnose(
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
        progress: Told of steps.
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
    told = progress or SilentProgress()
    told.step("looking at the environment")
    findings = environment(options.device, options.dtype)
    if dataset is None:
        about = describe(_load(options, told, for_rows=False)).model_dump() if model is not None else None
        return Diagnosis(tuple(findings), about, None, ())
    free = free_memory(choose_device(options.device))
    rows = read_rows(dataset, format=options.format, mapping=options.mapping, limit=options.limit)
    require_combination(options, rows.format)
    told.step("reading the dataset")
    sample, unreadable, first, count = _spread_sample(rows)
    began = time.perf_counter()
    chat_model = _load(options, told, for_rows=True)
    options = options.decided(chat_model.device.type)
    loading = time.perf_counter() - began
    told.step("encoding a sample")
    encoded, pieces = _encoded(sample, chat_model, options)
    report = _report(rows, count, unreadable, first, sample, encoded, chat_model, options)
    tokens = [row.tokens for row in encoded if row.first.status == "ok"]
    estimates: list[Estimate] = []
    if tokens:
        whole = count * sum(tokens) / len(sample)
        kinds = [options] if options.signals != "all" else [_of_representations(options), options]
        for kind in kinds:
            estimates.append(estimate_scan(chat_model, kind, pieces, whole, loading, told))
        findings.append(_fits(estimates[-1], free, options))
    return Diagnosis(tuple(findings), describe(chat_model).model_dump(), report, tuple(estimates))


def _of_representations(options: ScanOptions) -> ScanOptions:
    """The same scan without gradients, which is much faster."""
    usual = ScanOptions()
    only = {name: getattr(usual, name) for name in ("anchor_tokens", "row_tokens", "tokens")}
    return options.model_copy(update={"signals": "representation", **only})


def _load(options: ScanOptions, told: Progress, *, for_rows: bool) -> ChatModel:
    told.step("loading the model")
    chat_model = load_scan_model(options, for_rows=for_rows)
    if options.wants_gradient:
        # a layer that is not covered is found here
        GradientPass(chat_model)
    return chat_model


def _spread_sample(rows: Iterable[Row]) -> tuple[list[Row], Counter[str], dict[str, int], int]:
    """Up to ``SAMPLE_ROWS`` rows at even distances, why rows are unusable, the first of each reason, and their number.

    All in one reading.
    """
    unreadable: Counter[str] = Counter()
    first: dict[str, int] = {}
    spread: Spread[Row] = Spread()
    for row in rows:
        if row.problem is not None:
            unreadable[row.problem] += 1
            first.setdefault(row.problem, row.index)
        spread.take(row)
    return spread.kept(), unreadable, first, spread.count


def _first_unusable(first: dict[str, int], encoded: Sequence[SampledRow]) -> dict[str, int]:
    """The first row of each reason: as reading alone found it, else of the encoded rows."""
    found = dict(first)
    for row in encoded:
        if row.first.status != "ok":
            found.setdefault(row.first.status, row.first.index)
    return found


def _encoded(
    sample: Sequence[Row], chat_model: ChatModel, options: ScanOptions
) -> tuple[list[SampledRow], list[PreparedRow]]:
    """The sample encoded, and the usable rows, or up to ``SAMPLE_ROWS`` windows of them, as they are scored."""
    tokenizer, most = chat_model.tokenizer, options.max_tokens
    encoded: Iterable[Sequence[EncodedRow]]
    if options.windows:
        encoded = encode_windows(sample, tokenizer, max_tokens=most)
    else:
        encoded = ([row] for row in encode_rows(sample, tokenizer, max_tokens=most, loss_on=options.loss_on))
    sampled: list[SampledRow] = []
    spread: Spread[PreparedRow] = Spread()
    for row, pieces in zip(sample, encoded, strict=True):
        counts = document_row(pieces)
        sampled.append(SampledRow(pieces[0], counts.prompt_tokens + counts.response_tokens, counts.response_tokens))
        for piece in pieces if pieces[0].status == "ok" else ():
            spread.take(PreparedRow(row, [piece], traits_of(row.trained(options.loss_on)), unread=False))
    return sampled, spread.kept()


def _report(
    rows: Dataset,
    count: int,
    unreadable: Counter[str],
    first: dict[str, int],
    sample: Sequence[Row],
    encoded: Sequence[SampledRow],
    chat_model: ChatModel,
    options: ScanOptions,
) -> DatasetReport:
    usable = [place for place, row in enumerate(encoded) if row.first.status == "ok"]
    lengths = np.asarray([encoded[place].tokens for place in usable])
    report = DatasetReport(
        path=rows.path,
        container=rows.container,
        format=rows.format,
        rows=count,
        unreadable=dict(unreadable),
        sampled=len(sample),
        sample_unusable=dict(Counter(row.first.status for row in encoded if row.first.status != "ok")),
        first_unusable=_first_unusable(first, encoded),
        mismatch=next(
            (
                why_mismatch(own, chat_model.tokenizer, options.loss_on)
                for own, row in zip(sample, encoded, strict=True)
                if row.first.status == "template_mismatch"
            ),
            None,
        ),
        sample_unread=sum(has_unread(row.record, options.mapping or {}) for row in sample),
        mean_tokens=None,
        median_tokens=None,
        longest_tokens=None,
        mean_response_tokens=None,
        truncated_share=None,
        sample_row=None,
    )
    if not usable:
        return report
    typical = usable[int(np.abs(lengths - np.median(lengths)).argmin())]
    return replace(
        report,
        mean_tokens=float(lengths.mean()),
        median_tokens=float(np.median(lengths)),
        longest_tokens=max(len(encoded[place].first.tokens) for place in usable),
        mean_response_tokens=float(np.mean([encoded[place].response_tokens for place in usable])),
        truncated_share=float(np.mean([encoded[place].first.truncated for place in usable])),
        sample_row=rendered_row(sample[typical], encoded[typical].first, chat_model.tokenizer),
    )


def _fits(estimate: Estimate, free: int | None, options: ScanOptions) -> Finding:
    value = f"the scan needs about {size(estimate.peak_memory_bytes)}"
    if options.memory is not None and estimate.peak_memory_bytes > options.memory:
        return Finding(
            "memory for the scan",
            f"{value}, more than --memory {size(options.memory)}: rows would keep to it, the anchors' directions not",
            "Compute these once where there is more memory and bring RIPCURRENT_CACHE, or use --scope linear or lora.",
        )
    if free is None or estimate.peak_memory_bytes <= free:
        return Finding("memory for the scan", value)
    return Finding(
        "memory for the scan",
        f"{value}, and {size(free)} are free",
        "Use --signals representation, a smaller --max-tokens, --dtype bfloat16, or a larger machine.",
    )
