"""``--memory``: batches and a place for directions that keep to a cap, chosen once from a batch that is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from pydantic import JsonValue

from ripcurrent.data import Row
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.gradients import Halving, RanOut, attempt, in_memory
from ripcurrent.models import ChatModel, device_peak, give_back_freed_memory, memory_in_use, peak_bytes, reset_peak
from ripcurrent.scan._environment import size

if TYPE_CHECKING:
    from ripcurrent.scan._options import ScanOptions
    from ripcurrent.scan._signal_stage import PreparedRow, SignalStage

MARGIN = 0.9
"""Share of the cap that batches may fill: tables, tokens and the allocator's waste take the rest."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a scan keeps to what memory it may use."""

    token_budget: int
    """Padded tokens per batch."""
    mapped_directions: bool
    """Directions lie in files and are read layer by layer."""


def fitting_stage(
    make_stage: Callable[[bool], SignalStage],
    options: ScanOptions,
    decided: Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]],
    rows: Iterable[Row],
    directions_bytes: int,
    device: torch.device,
) -> tuple[SignalStage, MemoryPlan]:
    """A scan's stage, as it fits into memory.

    Without ``--memory`` directions go to files where they do not fit. With it the run's first call plans by the first
    shard's rows, and later ones keep to that, so that a resumed run equals an uninterrupted one.

    Args:
        make_stage: Makes the stage, with directions in files or not.
        options: The scan's.
        decided: Gives what the run's first call decided under a name, or decides it now.
        rows: Streams the dataset.
        directions_bytes: What the directions take in memory.
        device: Where the model is.

    Raises:
        RipcurrentError: The stage does not fit, or within the cap not a row; says what would.
    """
    if options.memory is None:
        made = attempt(partial(make_stage, False))
        if not isinstance(made, RanOut):
            return made, MemoryPlan(made.token_budget, False)
        plan = MemoryPlan(options.batch_tokens, True)
    else:
        few = islice(rows, options.shard_rows)
        plan = MemoryPlan(
            **decided(
                f"memory {options.memory}", lambda: asdict(_plan(make_stage, options, few, directions_bytes, device))
            )
        )
    with in_memory("The directions"):
        return replace(make_stage(plan.mapped_directions), token_budget=plan.token_budget), plan


def _plan(
    make_stage: Callable[[bool], SignalStage],
    options: ScanOptions,
    rows: Iterable[Row],
    directions_bytes: int,
    device: torch.device,
) -> MemoryPlan:
    """The largest batches within the cap, by what one batch of the longest of these rows takes per token.

    Directions stay in memory if the longest row then fits. A longer row that comes later may pass the cap.
    """
    assert options.memory is not None
    limit = options.memory * MARGIN
    # never put where the limit may be the machine's own
    mapped = options.wants_gradient and directions_bytes > limit - memory_in_use(device)
    stage = make_stage(mapped)
    prepared = sorted((row for row in stage.prepare(rows) if _longest(row)), key=_longest, reverse=True)
    give_back_freed_memory()
    room = limit - memory_in_use(device)
    longest, per_token = 0, 1.0
    if prepared:
        longest = _longest(prepared[0])
        budget = max(longest, stage.token_budget // 4)
        measured = prepared[: budget // longest]
        reset_peak(device)
        replace(stage, token_budget=budget, halving=Halving(), on_rows=lambda done: None).compute(measured)
        per_token = max(1.0, (peak_bytes(device) - limit + room) / (longest * len(measured)))
    if room < longest * per_token and options.wants_gradient and not mapped:
        mapped, room = True, room + directions_bytes
    tokens = int(max(0, room) / per_token)
    if room > 0 and tokens >= longest:
        return MemoryPlan(max(1, min(tokens, options.batch_tokens)), mapped)
    ways = ["--signals representation", "--scope lora"] if options.wants_gradient else []
    ways += [f"--max-tokens {tokens}" if tokens >= 8 else "a smaller model"]
    raise RipcurrentError(
        f"--memory {size(options.memory)} cannot be kept: a row of {longest or options.max_tokens} tokens does not fit "
        f"beside the model{', with directions in files' if options.wants_gradient else ''}.",
        f"Use {' or '.join(ways)}. The model's own weights are not moved out of memory.",
        code=ExitCode.NOT_MEASURED,
    )


def _longest(row: PreparedRow) -> int:
    return max((len(piece.tokens) for piece in row.pieces if piece.status == "ok"), default=0)


def require_room_for_directions(elements: int, chat_model: ChatModel, options: ScanOptions) -> None:
    """Refuse to form a direction of so many elements where it and the copy that is stored pass the cap.

    Raises:
        RipcurrentError: They do; says how much is needed.
    """
    needed = memory_in_use(chat_model.device) + elements * (4 + chat_model.dtype.itemsize)
    if options.memory is not None and needed > options.memory:
        raise RipcurrentError(
            f"Computing the anchors' directions takes {size(needed)}, more than --memory {size(options.memory)}.",
            "Compute them once where there is more memory (a scan with the same model, anchors and options on the same "
            "kind of device) and bring RIPCURRENT_CACHE here; or use --signals representation or --scope lora.",
            code=ExitCode.NOT_MEASURED,
        )


def memory_record(
    options: ScanOptions, devices: Sequence[torch.device], batches_halved: int, plan: MemoryPlan
) -> dict[str, JsonValue]:
    """What the manifest keeps of memory: what ran out, and the cap with its plan and whether it was kept."""
    # of several devices, the fullest one's
    peak = max(map(device_peak, devices))
    record: dict[str, JsonValue] = {"batches_halved": batches_halved}
    if devices[0].type == "cuda":
        record["device_peak_bytes"] = peak
    if options.memory is not None or plan.mapped_directions:
        record |= asdict(plan)
    if options.memory is not None:
        record |= {"memory": options.memory, "kept": peak <= options.memory}
    return record
