"""Look before a long scan: environment, dataset, one row as it will be trained, a forecast of time and memory."""

import os
import platform
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, JsonValue

from ripcurrent.anchors import load_anchors
from ripcurrent.data import Dataset, EncodedRow, Row, render, why_mismatch
from ripcurrent.errors import RipcurrentError
from ripcurrent.files import cache_folder
from ripcurrent.gradients import SignalKind, plan_batches
from ripcurrent.models import (
    ModelInfo,
    choose_device,
    choose_dtype,
    device_peak,
    embedded_gguf,
    give_back_freed_memory,
    peak_bytes,
    reset_peak,
)
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import RunFolder
from ripcurrent.scan._options import ScanOptions, require_combination
from ripcurrent.scan._passes import PreparedRow, ScanPasses
from ripcurrent.scan._scan_model import load_scan_model, size

SAMPLE_ROWS = 512
"""Rows that are encoded, spread over the whole dataset."""
TIMED_BATCHES = 6
"""Batches that are timed, spread over the lengths: short rows cost more per token, long ones more for attention."""
ENOUGH_MEMORY, ENOUGH_DISK = 3 * 2**30, 2 * 2**30
"""Bytes of memory that a scan with the embedded model may take, and of disk with a run beside."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Finding(_Record):
    """One thing of the machine or installation that was looked at."""

    name: str
    value: str
    advice: str | None
    """What to do about it; None when nothing has to be done."""
    ok: bool


class RenderedRow(_Record):
    """One row exactly as it is tokenised."""

    row: int
    tokens: int
    response_tokens: int
    truncated: bool
    text: str
    loss_spans: list[tuple[int, int]]
    """Stretches of the text that bear loss, in characters."""


class DatasetReport(_Record):
    """A dataset as a scan would read it."""

    path: str
    container: str
    """``json``, ``jsonl``, ``csv``, ``parquet``, ``folder``, ``files`` (several at once) or ``hub``."""
    format: str
    rows: int
    unreadable: dict[str, int]
    """Reason to number of rows that reading alone shows to be unusable, of all rows."""
    sampled: int
    sample_unusable: dict[str, int]
    """Reason to number of sampled rows that cannot be scored, the unreadable ones among them."""
    first_unusable: dict[str, int]
    """Reason to the first row that has it, 0-based: of all rows where reading alone shows it, else of the sampled."""
    mismatch: str | None
    """What the template says of the first sampled row that it refuses or whose turns it hides; None without one."""
    sample_unread: int
    """Sampled rows with tool calls or reasoning, which are not read."""
    mean_tokens: float | None = None
    """Of the sample's usable rows; None when there is none, as all below."""
    median_tokens: float | None = None
    longest_tokens: int | None = None
    """After cutting at ``--max-tokens``."""
    mean_response_tokens: float | None = None
    truncated_share: float | None = None
    """Share of the usable rows that are cut at ``--max-tokens``, 0 to 1."""
    sample_row: RenderedRow | None = None
    """A row of typical length."""


class Estimate(_Record):
    """What a scan will take, predicted from a few batches."""

    signals: SignalKind
    seconds: float
    loading_seconds: float
    anchor_seconds: float
    """The anchors, as measured: their directions are in the cache now, where a scan finds them."""
    row_seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    """Peak memory of the process, or on CUDA of the device's allocations, with directions that are in the cache."""
    probed_rows: int
    probed_tokens: int


class Diagnosis(_Record):
    """Everything that doctor looked at."""

    environment: list[Finding]
    model: ModelInfo | None = None
    dataset: DatasetReport | None = None
    estimates: list[Estimate] = []
    """The forecast of the scan; none without a dataset or without a usable row."""

    def to_json(self) -> dict[str, JsonValue]:
        """What ``--json`` prints."""
        return self.model_dump(mode="json")


def doctor(
    dataset: str | Path | None = None, *, model: str | None = None, progress: Progress | None = None, **changes: Any
) -> Diagnosis:
    """Look at the environment; with a dataset or a model also at these, and with a dataset forecast the scan.

    ``changes`` are options of the scan by name. Raises `RipcurrentError` for what a scan would refuse.
    """
    options = ScanOptions.resolve(None, changes if model is None else {**changes, "model": model})
    progress = progress or SilentProgress()
    progress.step("looking at the environment")
    findings = environment(options.device, options.dtype)
    if dataset is None:
        about = None if model is None else ScanPasses(load_scan_model(options), options).model
        return Diagnosis(environment=findings, model=about)
    rows = options.open(dataset)
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
    places = np.linspace(0, count - 1, min(SAMPLE_ROWS, count)).round().astype(int)
    sample = list(passes.stage_of(None, None, progress).prepare(rows.at(places.tolist())))
    by_status: dict[str, list[PreparedRow]] = {"ok": []}
    for one in sample:
        by_status.setdefault(one.encoded.status, []).append(one)
    usable, hidden = by_status.pop("ok"), by_status.get("template_mismatch")
    tokenizer = passes.chat_model.tokenizer
    report = DatasetReport(
        path=rows.path,
        container=rows.container,
        format=rows.format,
        rows=count,
        unreadable=dict(unreadable),
        sampled=len(sample),
        sample_unusable={status: len(found) for status, found in by_status.items()},
        first_unusable={status: found[0].row.index for status, found in by_status.items()} | first,
        mismatch=why_mismatch(hidden[0].row, tokenizer, options.trained) if hidden else None,
        sample_unread=sum(one.unread for one in sample),
        **(_lengths(usable, tokenizer) if usable else {}),
    )
    estimates = [_estimate(passes, rows, usable, count / len(sample), loading, progress)] if usable else []
    return Diagnosis(environment=findings, model=passes.model, dataset=report, estimates=estimates)


def _lengths(usable: Sequence[PreparedRow], tokenizer: Any) -> dict[str, Any]:
    """The fields of a `DatasetReport` on lengths, and a row of typical length."""
    encoded = [one.encoded for one in usable]
    tokens = np.asarray([one.prompt_tokens + one.response_tokens for one in encoded])
    typical = usable[int(np.abs(tokens - np.median(tokens)).argmin())]
    return {
        "mean_tokens": tokens.mean(),
        "median_tokens": np.median(tokens),
        "longest_tokens": max(len(one.tokens) for one in encoded),
        "mean_response_tokens": np.mean([one.response_tokens for one in encoded]),
        "truncated_share": np.mean([one.truncated for one in encoded]),
        "sample_row": rendered_row(typical.row, typical.encoded, tokenizer),
    }


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
    passes: ScanPasses, rows: Dataset, sample: Sequence[PreparedRow], times: float, loading: float, progress: Progress
) -> Estimate:
    """Prepare the anchors, time a few batches of a sample, and predict the scan of ``times`` as many rows."""
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
        tokens = [len(row.encoded.tokens) for row in sample]
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
    row_seconds = times * sum(tokens) / rate
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


def environment(device_name: str | None, dtype_name: str | None) -> list[Finding]:
    """Look at versions, device, compute type, CPU, memory, cache and the embedded model."""
    found: list[Finding] = []

    def note(name: str, value: str, advice: str = "", wrong: bool = False) -> None:
        found.append(Finding(name=name, value=value, advice=advice if wrong else None, ok=not wrong))

    note("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for library in ("ripcurrent", "torch", "transformers"):
        note(library, version(library))
    device = choose_device(device_name)
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    why = "the fastest here" if device.type != "cpu" else "as there is no GPU that this torch can use"
    note("device", f"{label}, {'as asked for' if device_name else why}")
    dtype, fastest = (str(choose_dtype(one, device)).removeprefix("torch.") for one in (dtype_name, None))
    why = "which this device computes in natively" if dtype == "bfloat16" else "as bfloat16 is not native here"
    advice = f"Leave --dtype out unless you need {dtype}: this device is fastest in {fastest}."
    note("compute type", f"{dtype}, {'as asked for' if dtype_name else why}", advice, dtype != fastest)
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = torch.get_num_threads()
        # hyper-threads count as cores, and torch rightly leaves one of each pair alone
        few = threads * 2 < cores or (threads == 1 and cores > 1)
        advice = "Unset OMP_NUM_THREADS, or raise it, to use the other cores."
        note("CPU", f"{threads} threads on {cores} cores", advice, few)
    free = free_memory(device)
    value = "the system does not say how much is free" if free is None else f"{size(free)} free"
    advice = f"A scan with the embedded model may take {size(ENOUGH_MEMORY)}: close what you can."
    note("memory", value, advice, free is not None and free < ENOUGH_MEMORY)
    folder = cache_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    room, writable = shutil.disk_usage(there).free, there.is_dir() and os.access(there, os.W_OK)
    value = f"{folder}; {size(room)} free on its disk" if writable else f"{folder} cannot be written"
    advice = f"Name a folder with {size(ENOUGH_DISK)} free in the environment variable RIPCURRENT_CACHE."
    note("cache", value, advice, not writable or room < ENOUGH_DISK)
    try:
        note("embedded model", embedded_gguf().name)
    except RipcurrentError as error:
        note("embedded model", error.message.rstrip("."), error.hint, True)
    return found


def free_memory(device: torch.device, container: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that a process can still take on a device, within a container's own limit (cgroup 2); None: not known."""

    def numbers(path: Path) -> dict[str, int]:
        lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
        return {name: int(number) for name, number, *_ in lines}

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        free = numbers(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    except OSError:
        return None
    try:
        limit, used = (int((container / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        # the cache of files that were read is counted as used, and given up when it is needed
        return min(free, max(0, limit - used + numbers(container / "memory.stat").get("inactive_file", 0)))
    except (OSError, ValueError):
        # no such file, or a limit of "max"
        return free
