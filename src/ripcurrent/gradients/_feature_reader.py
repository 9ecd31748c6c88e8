"""Representation features: each row's last state, from the forward pass alone."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ripcurrent.gradients._batch import Batch, BatchSignals
from ripcurrent.models import ChatModel

Features = npt.NDArray[np.float32]
"""One state per row, shape ``(rows, width)``."""


class FeatureReader:
    """Reads each row's state at its last token, after the final norm."""

    def __init__(self, chat_model: ChatModel) -> None:
        model = chat_model.model
        causal: Any = model.get_base_model() if hasattr(model, "peft_config") else model
        self._base = getattr(causal, causal.base_model_prefix)

    def forward(self, batch: Batch) -> BatchSignals:
        """Features alone, from a forward pass without the output head."""
        with torch.inference_mode():
            hidden = self._base(input_ids=batch.ids, use_cache=False).last_hidden_state
            return BatchSignals(features=last_states(hidden, batch))


def last_states(hidden: Tensor, batch: Batch) -> Features:
    """Each row's state at its last token, shape ``(rows, width)``, of states ``(rows, tokens, width)``."""
    rows = torch.arange(batch.rows, device=hidden.device)
    return hidden[rows, batch.lengths.to(hidden.device) - 1].float().cpu().numpy()
