"""A signal stage for another process: what it takes to make it there, small enough to send."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import Directions, in_memory
from ripcurrent.models import ChatModel
from ripcurrent.progress import SilentProgress
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._passes import ScanPasses
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.scan._signal_stage import SignalStage

Packed = tuple[int, list[dict[Any, tuple[npt.NDArray[np.uint8], torch.dtype]]]]
"""Number of directions, and their tensors as bytes: NumPy has no bfloat16, and Ray shares arrays, not tensors."""


@dataclass(frozen=True, slots=True)
class RemoteStage:
    """Makes a signal stage like another one; calling it loads the model."""

    options: ScanOptions
    """The scan's, with paths that hold in every folder, and the kind of device that measured the anchors."""
    identity: Mapping[str, str]
    """What `identity_of` gives in the process that measured the anchors."""
    directions: Callable[[], Packed] | None
    """Gives the packed directions; None without gradients."""
    anchor_features: npt.NDArray[np.float32] | None
    """The anchors' unit features, as the stage has them."""

    def __call__(self) -> SignalStage:
        """Load the model and make the stage.

        Raises:
            RipcurrentError: The model cannot be loaded here, it or the directions do not fit, or scores would differ.
        """
        here = socket.gethostname()
        with in_memory(f"The model and the directions on {here}"):
            chat_model = load_scan_model(self.options)
            for what, own in identity_of(chat_model).items():
                if own != self.identity[what]:
                    raise RipcurrentError(
                        f"{here} would give other scores than the process that started the scan: its {what} is "
                        f"{own}, there it is {self.identity[what]}.",
                        "Every machine needs the same model files and package versions: put the model on a shared "
                        "disk, and name --dtype where machines differ.",
                    )
            found = None if self.directions is None else unpack(self.directions(), chat_model.device)
            return ScanPasses(chat_model, self.options).stage_of(found, self.anchor_features, SilentProgress())


def identity_of(chat_model: ChatModel) -> dict[str, str]:
    """All that a row's scores depend on beside the options, by name."""
    return {
        **{f"version of {package}": version(package) for package in ("ripcurrent", "torch", "transformers")},
        "model's fingerprint": str(chat_model.fingerprint),
        "chat template": str(chat_model.template_sha256),
        "tokenizer": str(chat_model.tokenizer_sha256),
        "compute type": str(chat_model.dtype),
    }


def share_stage(stage: SignalStage, options: ScanOptions, put: Callable[[Any], Callable[[], Any]]) -> RemoteStage:
    """What another process needs to make a stage like this one; the directions are ``put`` where it gets them."""
    return RemoteStage(
        options=options.model_copy(update={"device": stage.chat_model.device.type}),
        identity=identity_of(stage.chat_model),
        directions=None if stage.directions is None else put(pack(stage.directions)),
        anchor_features=stage.anchor_features,
    )


def pack(found: Directions) -> Packed:
    """Directions as arrays that other processes can map."""

    def packed(tensor: Tensor) -> tuple[npt.NDArray[np.uint8], torch.dtype]:
        return np.asarray(tensor.contiguous().cpu().view(torch.uint8).numpy()), tensor.dtype

    parts = (found.linear, found.other, found.term_weights, found.entry_of)
    return found.count, [{key: packed(tensor) for key, tensor in part.items()} for part in parts]


def unpack(packed: Packed, device: torch.device) -> Directions:
    """The directions on a device; on the CPU they share the packed arrays' memory."""
    with warnings.catch_warnings():
        # directions are only read
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        parts = (
            {key: torch.from_numpy(array).view(dtype).to(device) for key, (array, dtype) in part.items()}
            for part in packed[1]
        )
        return Directions(packed[0], *parts)


def release_stage(stage: SignalStage) -> None:
    """Give back the memory of a stage's model and directions, which cannot be used after this."""
    stage.chat_model.model.to("meta")
    if stage.directions is not None:
        for tensor in (*stage.directions.linear.values(), *stage.directions.other.values()):
            # that of a mapped file is no memory of this process
            if tensor.untyped_storage().resizable():
                tensor.untyped_storage().resize_(0)
    if stage.chat_model.device.type == "cuda":
        torch.cuda.empty_cache()
