"""The model that a scan's options name, loaded the same way by every command, and the memory that it may use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from pydantic import JsonValue

from ripcurrent.data import Row
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.gradients import WIDTH_MULTIPLE, Halving, RanOut, attempt, in_memory
from ripcurrent.models import (
    ChatModel,
    device_peak,
    give_back_freed_memory,
    load_model,
    memory_in_use,
    peak_bytes,
    require_chat_template,
    reset_peak,
)

if TYPE_CHECKING:
    from ripcurrent.scan._options import ScanOptions
    from ripcurrent.scan._passes import PreparedRow, SignalStage

MARGIN = 0.9
"""Share of the cap that batches may fill: tables, tokens and the allocator's waste take the rest."""


def load_scan_model(options: ScanOptions, held: ChatModel | None = None) -> ChatModel:
    """The model to score with, or the one in memory; it needs a chat template and ``max_tokens`` positions."""
    named = options.model_dump(include={"adapter", "device", "dtype", "scope", "seed"})
    chat_model = held or load_model(name=options.model, **named)
    require_chat_template(chat_model)
    require_positions(chat_model, options.max_tokens)
    return chat_model


def usable_positions(chat_model: ChatModel, positions: int) -> int:
    """The longest row whose batch is not padded beyond the model's positions."""
    return positions - positions % WIDTH_MULTIPLE.get(chat_model.device.type, 1)


def require_positions(chat_model: ChatModel, max_tokens: int, *, padded: bool = True) -> None:
    """Refuse rows longer than the model has positions for, or than where these depend on the longest row of a batch."""
    config = chat_model.model.config.get_text_config()
    for most, why in (
        (_length_of_other_positions(config), ": past these a row's scores would depend on the rows beside it"),
        (getattr(config, "max_position_embeddings", None), ""),
    ):
        usable = most if most is None or not padded else usable_positions(chat_model, most)
        if usable is not None and max_tokens > usable:
            raise RipcurrentError(
                f"--max-tokens {max_tokens} is more than the {usable} positions of {chat_model.name}{why}.",
                f"Give --max-tokens {usable} (in a file max_tokens) or less: longer rows are truncated.",
            )


def _length_of_other_positions(config: Any) -> int | None:
    """Tokens from which a model's rotary frequencies depend on the batch's width (LongRoPE, dynamic); None: none."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # some models have one set of parameters for each kind of layer
    kinds = [given, *(value for value in given.values() if isinstance(value, Mapping))]
    lengths = [
        one.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or getattr(config, "max_position_embeddings", None)
        for one in kinds
        if one.get("rope_type", one.get("type")) in ("longrope", "dynamic")
    ]
    return min((int(length) for length in lengths if length), default=None)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a scan keeps to what memory it may use."""

    token_budget: int
    mapped_directions: bool
    """Directions lie in files and are read layer by layer."""


def size(count: float) -> str:
    """Bytes with a unit, in powers of a thousand."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def fitting_stage(
    make_stage: Callable[[bool], SignalStage],
    options: ScanOptions,
    decided: Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]],
    rows: Iterable[Row],
    directions_bytes: int,
    device: torch.device,
) -> tuple[SignalStage, MemoryPlan]:
    """A scan's stage, as it fits into memory; ``make_stage`` makes it, with directions in files or not.

    Without ``--memory`` directions go to files where they do not fit. With it the run's first call plans by the first
    shard's rows, and later ones keep to what was ``decided``.
    """
    if options.memory is None:
        made = attempt(partial(make_stage, False))
        if not isinstance(made, RanOut):
            return made, MemoryPlan(made.token_budget, False)
        plan = MemoryPlan(options.batch_tokens, True)
    else:
        few = islice(rows, options.shard_rows)
        first = partial(_plan, make_stage, options, few, directions_bytes, device)
        plan = MemoryPlan(**decided(f"memory {options.memory}", lambda: asdict(first())))
    with in_memory("The directions"):
        return replace(make_stage(plan.mapped_directions), token_budget=plan.token_budget), plan


def _plan(
    make_stage: Callable[[bool], SignalStage],
    options: ScanOptions,
    rows: Iterable[Row],
    directions_bytes: int,
    device: torch.device,
) -> MemoryPlan:
    """The largest batches within the cap, by what one batch of the longest of these rows takes per token."""
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
    return len(row.encoded.tokens) if row.encoded.status == "ok" else 0


def require_room_for_directions(elements: int, chat_model: ChatModel, options: ScanOptions) -> None:
    """Refuse to form a direction of so many elements where it and the copy that is stored pass the cap."""
    needed = memory_in_use(chat_model.device) + elements * (4 + chat_model.dtype.itemsize)
    if options.memory is not None and needed > options.memory:
        raise RipcurrentError(
            f"Computing the anchors' directions takes {size(needed)}, more than --memory {size(options.memory)}.",
            "Compute them once where there is more memory (a scan with the same model, anchors and options on the same "
            "kind of device) and bring RIPCURRENT_CACHE here; or use --signals representation or --scope lora.",
            code=ExitCode.NOT_MEASURED,
        )


def memory_record(
    stage: SignalStage, options: ScanOptions, plan: MemoryPlan, here: bool = True
) -> dict[str, JsonValue]:
    """What the manifest keeps of memory in this process: what ran out, the cap, its plan and whether it was kept."""
    peak = device_peak(stage.chat_model.device)
    # what ran out in another process is unknown here
    record: dict[str, JsonValue] = {"batches_halved": stage.halving.batches_halved} if here else {}
    if stage.chat_model.device.type == "cuda":
        record["device_peak_bytes"] = peak
    if options.memory is not None or plan.mapped_directions:
        record |= asdict(plan)
    if options.memory is not None:
        record |= {"memory": options.memory, "kept": peak <= options.memory}
    return record
