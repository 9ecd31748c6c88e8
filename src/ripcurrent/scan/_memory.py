"""A scan within a memory budget: batches small enough, then directions kept in files, else an error that says what."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ripcurrent.data import EncodedRow, Row, encode_rows, encode_windows
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.gradients import (
    ANCHOR_TOKEN_BUDGET,
    DENSE,
    Directions,
    GradientPass,
    MappedStore,
    RanOut,
    attempt,
    dense_shapes,
    does_not_fit,
    in_memory,
    stack_directions,
)
from ripcurrent.models import ChatModel, device_peak, memory_in_use
from ripcurrent.runs import write_json
from ripcurrent.scan._environment import size
from ripcurrent.scan._memory_probe import for_several_rows, largest_within, peak_at, peak_up_to, probe_peaks
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._parts import plan_file
from ripcurrent.scan._signal_stage import SignalStage

if TYPE_CHECKING:
    from ripcurrent.gradients import ModelLayers
    from ripcurrent.scan._part import Part
    from ripcurrent.scan._prepared_anchors import StoredDirection

MARGIN = 0.95
"""Share of the budget that batches may fill: tables, tokens and the allocator's own waste take the rest."""

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a scan keeps to its budget."""

    memory: int
    """The budget in bytes."""
    token_budget: int
    """Padded tokens per batch."""
    mapped_directions: bool
    """Directions lie in files and are read layer by layer."""
    longest_row: int
    """Tokens of the longest row, at most ``max_tokens``; a batch of its own if it exceeds the token budget."""
    expected_peak: int
    """Peak memory in bytes that the largest batch is expected to reach, by the probes."""


def parse_size(text: str) -> int:
    """Bytes of a size such as ``8GB`` (powers of a thousand), ``8GiB`` (of 1,024) or a plain number from 1 MB up.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    unit = found[2].upper() or "B" if found else ""
    if found is None or unit not in _UNITS or float(found[1]) <= 0:
        raise ValueError("write a size such as 8GB, 500MB or 6GiB")
    if not found[2] and float(found[1]) < _UNITS["MB"]:
        raise ValueError(f"it has no unit: write {found[1]}GB or {found[1]}MB")
    return int(float(found[1]) * _UNITS[unit])


def longest_row(rows: Iterable[Row], chat_model: ChatModel, options: ScanOptions) -> int:
    """Tokens of the longest row as it will be scored; stops at the first that reaches ``max_tokens``."""
    encoded: Iterable[Sequence[EncodedRow]]
    if options.windows:
        encoded = encode_windows(rows, chat_model.tokenizer, max_tokens=options.max_tokens)
    else:
        kept = encode_rows(rows, chat_model.tokenizer, max_tokens=options.max_tokens, loss_on=options.loss_on)
        encoded = ([row] for row in kept)
    longest = 0
    for pieces in encoded:
        longest = max(longest, *(len(piece.tokens) for piece in pieces))
        # windows of a cut document are a little shorter than they might be
        if longest >= options.max_tokens or len(pieces) > 1:
            return options.max_tokens
    return longest


def within_memory(
    plan_file: Path,
    rows: Callable[[], Iterable[Row]],
    options: ScanOptions,
    chat_model: ChatModel,
    make_stage: Callable[[bool], SignalStage],
    on_step: Callable[[str], None],
    directions_bytes: int = 0,
) -> tuple[SignalStage, MemoryPlan]:
    """The stage with a token budget, and if need be with mapped directions, that keeps to ``options.memory``.

    Batches of one row are run at doubling lengths and their peak is read, then batches of several rows of the length
    that keeps most for attention. A plan that is there for the same budget is taken as it is.

    Args:
        plan_file: Where the plan is kept, as :func:`plan_path` names it.
        rows: Streams the dataset.
        options: The scan's, with ``memory``.
        chat_model: The model.
        make_stage: Builds the stage, with directions in memory or mapped.
        on_step: Told of steps.
        directions_bytes: What the directions take. Where they alone pass the budget they are never put in memory,
            whose limit may be the machine's own.

    Raises:
        RipcurrentError: the longest row does not fit, even with mapped directions; says what would.
    """
    assert options.memory is not None
    kept = read_plan(plan_file)
    if kept is not None and kept.memory == options.memory:
        with in_memory("The directions"):
            return _within(make_stage(kept.mapped_directions), kept), kept
    on_step("finding the longest row")
    longest = longest_row(rows(), chat_model, options)
    limit = options.memory * MARGIN
    tried: list[tuple[int, float]] = []
    for mapped in (False, True):
        if not mapped and directions_bytes and memory_in_use(chat_model.device) + directions_bytes > limit:
            continue
        on_step("measuring memory" + (" with directions in files" if mapped else ""))
        made = attempt(partial(make_stage, mapped))
        if isinstance(made, RanOut):
            if not mapped:
                # a GPU refuses at once what a processor's memory refuses when it is used
                continue
            raise does_not_fit("The directions", made.said)
        stage = made
        # without a usable row the plan is of no use, and the scan says so
        wanted = max(2, longest if stage.batch_rows == 1 else max(longest, options.batch_tokens))
        tried = probe_peaks(stage, wanted, limit)
        fits = largest_within(tried, limit, wanted)
        if fits >= longest:
            budget, of_several = max(1, min(options.batch_tokens, fits)), 0.0
            if stage.batch_rows is None:
                budget, of_several = for_several_rows(stage, budget, limit, tried)
            plan = MemoryPlan(
                memory=options.memory,
                token_budget=budget,
                mapped_directions=mapped,
                longest_row=longest,
                expected_peak=int(max(peak_up_to(tried, max(longest, budget)), of_several)),
            )
            write_json(plan_file, asdict(plan))
            return _within(stage, plan), plan
        if stage.gradient_pass is None:
            break
        del stage, made
    raise _too_little(options, longest, tried, fits)


def _within(stage: SignalStage, plan: MemoryPlan) -> SignalStage:
    # the holes that batches of other shapes leave were no part of what was measured
    return replace(stage, token_budget=plan.token_budget, tidy_always=True)


def leaves_room_for_gradient(plan: MemoryPlan | None, layers: ModelLayers) -> bool:
    """Whether a float32 gradient over the scope, beside a batch, keeps to the budget too; so it is without one."""
    if plan is None:
        return True
    needed = 4 * sum(math.prod(shape) for shape in dense_shapes(layers, DENSE).values())
    widest = max(plan.longest_row, plan.token_budget)
    return widest >= ANCHOR_TOKEN_BUDGET and plan.expected_peak + needed <= plan.memory * MARGIN


def scan_directions(
    gradient_pass: GradientPass, stored: list[StoredDirection], chat_model: ChatModel, mapped_in: Path | None
) -> Directions:
    """Directions as the stage reads them: in memory, or in files without a name in a run folder."""
    if mapped_in is None:
        return stack_directions(gradient_pass.layers, stored, chat_model.dtype)
    store = MappedStore(mapped_in)
    stacked = stack_directions(gradient_pass.layers, stored, chat_model.dtype, empty=store.empty, written=store.let_go)
    return store.directions(stacked, chat_model.device)


def memory_record(
    options: ScanOptions, devices: Sequence[torch.device], plan: MemoryPlan | None, batches_halved: int
) -> dict[str, Any]:
    """What the manifest keeps of memory: the budget with its plan and whether it was kept, and what ran out."""
    # of several, the fullest one's
    peak = max(map(device_peak, devices))
    record: dict[str, Any] = {"batches_halved": batches_halved}
    if devices[0].type == "cuda":
        record["device_peak_bytes"] = peak
    if plan is not None and options.memory is not None:
        record |= {**asdict(plan), "kept": peak <= options.memory}
    return record


def plan_path(folder: Path, part: Part | None = None) -> Path:
    """Where a run folder has the plan of a scan, or of one of its parts."""
    return plan_file(folder, "memory", part)


def read_plan(path: Path) -> MemoryPlan | None:
    """The plan in a file; None where there is none."""
    import json

    return MemoryPlan(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def require_room_for_directions(elements: int, chat_model: ChatModel, options: ScanOptions) -> None:
    """Refuse to form an anchor set's direction where it and the copy that is stored pass the budget.

    Raises:
        RipcurrentError: they do; says how much is needed.
    """
    if options.memory is None:
        return
    # running sums are held beside their own sum
    held = max(8 if options.quirks.get("anchors_running_sum") else 4, 4 + chat_model.dtype.itemsize)
    needed = memory_in_use(chat_model.device) + elements * held
    if needed > options.memory:
        raise RipcurrentError(
            f"Computing the anchors' directions takes {size(needed)}, more than --memory {size(options.memory)}.",
            "Compute them once where there is more memory (a scan with the same model, anchors and options on the same "
            f"kind of device) and bring RIPCURRENT_CACHE here; or use {' or '.join(_cheaper(options))}.",
            code=ExitCode.NOT_MEASURED,
        )


def _too_little(options: ScanOptions, longest: int, tried: Sequence[tuple[int, float]], fits: int) -> RipcurrentError:
    assert options.memory is not None
    ran_out = next((tokens for tokens, peak in tried if peak == math.inf), None)
    if tried[0][1] > options.memory * MARGIN:
        least = f"even a batch of {tried[0][0]} tokens " + (
            "runs out of memory" if tried[0][1] == math.inf else f"takes {size(tried[0][1])}"
        )
        ways = _cheaper(options) + (["--dtype bfloat16"] if options.dtype in (None, "float32") else [])
        hint = f"Use {', '.join([*ways, 'or a smaller model'] if ways else ['a smaller model'])}."
    else:
        least = f"the longest row has {longest} tokens and " + (
            f"takes about {size(peak_at(tried, longest))}"
            if ran_out is None
            else f"{ran_out} tokens run out of memory: less is free than the budget"
        )
        ways = _cheaper(options)
        hint = f"--max-tokens {fits} fits" + (f"; or use {' or '.join(ways)}." if ways else ".")
    return RipcurrentError(
        f"--memory {size(options.memory)} cannot be kept: {least}"
        + (", with directions in files" if options.wants_gradient else "")
        + ".",
        hint + " The model's own weights are not moved out of memory.",
        code=ExitCode.NOT_MEASURED,
    )


def _cheaper(options: ScanOptions) -> list[str]:
    """Options that take less memory and are not given already."""
    if not options.wants_gradient:
        return []
    smaller = {"all": ["--scope linear or lora"], "linear": ["--scope lora"]}
    return ["--signals representation", *smaller.get(options.scope, [])]
