"""Representation features: one state per row, at a chosen layer and position, from the forward pass alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients._batch import Batch, BatchSignals, Position
from ripcurrent.gradients._shared import SharedPrefix
from ripcurrent.models import ChatModel

Features = npt.NDArray[np.float32]
"""One state per row, shape ``(rows, width)``."""


class FeatureReader:
    """Reads each row's state at one layer and position.

    ``layer`` is ``None`` for the last hidden state (after the final norm), or a block's number, 0-based or negative
    from the end, for that block's output before any final norm.
    """

    def __init__(self, chat_model: ChatModel, *, layer: int | None = None, position: Position = "last") -> None:
        model = chat_model.model
        causal: Any = model.get_base_model() if hasattr(model, "peft_config") else model
        self._base: nn.Module = getattr(causal, causal.base_model_prefix)
        self._position = position
        self._prefixes = SharedPrefix(self._base, causal.config.get_text_config())
        self._block: nn.Module | None = None
        if layer is not None:
            count = causal.config.get_text_config().num_hidden_layers
            lists = (module for module in self._base.modules() if isinstance(module, nn.ModuleList))
            blocks = next((blocks for blocks in lists if len(blocks) == count), None)
            if blocks is None:
                raise RipcurrentError(
                    f"The blocks of {type(self._base).__name__} were not found.", "Leave the layer out."
                )
            if not -len(blocks) <= layer < len(blocks):
                raise RipcurrentError(
                    f"Layer {layer} does not exist: {chat_model.name} has blocks 0 to {len(blocks) - 1}.",
                    "Name one of these, or leave the layer out for the last hidden state.",
                )
            self._block = blocks[layer]

    @contextmanager
    def reading(self, batch: Batch) -> Iterator[Callable[[Tensor], Features]]:
        """A context to run the forward pass in; what it gives turns the last hidden state into the rows' features."""
        states: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            states.append((output[0] if isinstance(output, tuple) else output).detach())

        def features(hidden: Tensor) -> Features:
            chosen = states[-1] if states else hidden
            return at_position(chosen, batch.to(chosen.device), self._position).float().cpu().numpy()

        handle = None if self._block is None else self._block.register_forward_hook(keep)
        try:
            yield features
        finally:
            if handle is not None:
                handle.remove()

    def forget(self) -> None:
        """Give back what is kept for further batches."""
        self._prefixes.forget()

    def forward(self, batch: Batch) -> BatchSignals:
        """Features alone, from a forward pass without the output head, over what the rows do not share."""
        with torch.inference_mode():
            begun, rest = self._prefixes.split(batch)
            with self.reading(rest) as features:
                output = self._base(input_ids=rest.ids, **{"use_cache": False, **begun})
                return BatchSignals(features=features(output.last_hidden_state))


def at_position(states: Tensor, batch: Batch, position: Position) -> Tensor:
    """Each row's state at a position, shape ``(rows, width)``; ``mean_response`` averages in float32."""
    places = {"last": batch.lengths - 1, "last_content": batch.last_content, "last_prompt": batch.last_prompt}
    if position in places:
        return states[torch.arange(batch.rows, device=states.device), places[position]]
    mask = batch.answers.float()
    return torch.bmm(mask.unsqueeze(1), states.float()).squeeze(1) / mask.sum(dim=1, keepdim=True).clamp_min(1.0)
