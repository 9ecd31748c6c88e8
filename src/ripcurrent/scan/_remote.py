"""A signal stage for another process: what it takes to make it again there, small enough to send."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import Directions, FeatureReader, GradientPass, GroupKey, Position, in_memory
from ripcurrent.models import ChatModel, load_model
from ripcurrent.scan._signal_stage import SignalStage

_MADE_ANEW = ("chat_model", "gradient_pass", "directions", "features", "halving", "on_rows")
"""The stage's fields that hold the model or belong to a process; the others are sent as they are."""

_AS_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16}
"""NumPy has no bfloat16: such tensors travel as integers of the same bits."""


class Stored(Protocol):
    """An array kept where other processes can get it."""

    def get(self) -> npt.NDArray[Any]:
        """The array, read-only."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor kept where other processes can get it."""

    array: Stored
    """Its numbers, or their bits."""
    dtype: torch.dtype
    """Its type."""

    def get(self, device: torch.device) -> Tensor:
        """The tensor on a device; on the processor it shares the stored memory."""
        with warnings.catch_warnings():
            # directions are only read
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(self.array.get()).view(self.dtype).to(device)


@dataclass(frozen=True, slots=True)
class RemoteStage:
    """Makes a signal stage like another one; calling it loads the model."""

    model: Mapping[str, Any]
    """Arguments of :func:`ripcurrent.load_model`."""
    identity: Mapping[str, str | None]
    """What `identity_of` says of the model in the process that measured the anchors."""
    versions: Mapping[str, str]
    """What `versions_here` says there."""
    dtype: torch.dtype
    """The compute type there."""
    count: int
    """Number of directions; 0 without gradients."""
    linear: Mapping[GroupKey, StoredTensor]
    """Directions of linear groups."""
    other: Mapping[str, StoredTensor]
    """Directions of vectors and tables."""
    term_weights: Mapping[GroupKey, StoredTensor]
    """Weights of factored groups' terms."""
    places: Mapping[str, StoredTensor]
    """Places of the entries that tables with few have."""
    reader: tuple[int | None, Position] | None
    """Layer and position of the features; None without them."""
    settings: Mapping[str, Any]
    """The stage's other fields."""

    def __call__(self) -> SignalStage:
        """Load the model and make the stage.

        Raises:
            RipcurrentError: The model cannot be loaded here, it or the directions do not fit, or it is not the one
                whose anchors were measured.
        """
        with in_memory(f"The model and the directions on {socket.gethostname()}"):
            return self._make()

    def _make(self) -> SignalStage:
        for package, here in versions_here().items():
            if here != self.versions[package]:
                raise RipcurrentError(
                    f"{socket.gethostname()} has {package} {here}, and the process that started the scan "
                    f"{self.versions[package]}.",
                    "Install the same versions on every machine, or scores would depend on who computed them.",
                )
        chat_model = load_model(**self.model)
        for what, found in identity_of(chat_model).items():
            if found != self.identity[what]:
                raise RipcurrentError(
                    f"{chat_model.name} on {socket.gethostname()} is not the model that measured the anchors: it has "
                    f"another {what}.",
                    "Every machine must load the same files: put the model on a shared disk, or the same revision on "
                    "each.",
                )
        if chat_model.dtype != self.dtype:
            raise RipcurrentError(
                f"The machines compute in different types: {self.dtype} and {chat_model.dtype}.", "Name one by --dtype."
            )
        directions = None
        if self.count:
            device = chat_model.device
            directions = Directions(
                self.count,
                {number: tensor.get(device) for number, tensor in self.linear.items()},
                {name: tensor.get(device) for name, tensor in self.other.items()},
                {number: tensor.get(device) for number, tensor in self.term_weights.items()},
                {name: tensor.get(device) for name, tensor in self.places.items()},
            )
        features = None
        if self.reader is not None:
            layer, position = self.reader
            features = FeatureReader(chat_model, layer=layer, position=position)
        return SignalStage(
            chat_model=chat_model,
            gradient_pass=GradientPass(chat_model) if self.count else None,
            directions=directions,
            features=features,
            **self.settings,
        )


def identity_of(chat_model: ChatModel) -> dict[str, str | None]:
    """Hashes of all that a row's scores hang on, by what they are of."""
    return {
        "fingerprint": chat_model.fingerprint,
        "chat template": chat_model.template_sha256,
        "tokenizer": chat_model.tokenizer_sha256,
    }


def versions_here() -> dict[str, str]:
    """Versions of the packages that scores hang on."""
    return {package: version(package) for package in ("ripcurrent", "torch", "transformers")}


def share_stage(
    stage: SignalStage,
    put: Callable[[npt.NDArray[Any]], Stored],
    *,
    model: Mapping[str, Any],
    layer: int | None,
    position: Position,
) -> RemoteStage:
    """What another process needs to make a stage like this one; the directions are ``put`` once, tensor by tensor."""
    found = stage.directions

    def stored(tensor: Tensor) -> StoredTensor:
        bits = tensor.contiguous().view(_AS_BITS.get(tensor.dtype, tensor.dtype))
        return StoredTensor(put(np.asarray(bits.cpu().numpy())), tensor.dtype)

    return RemoteStage(
        model=model,
        identity=identity_of(stage.chat_model),
        versions=versions_here(),
        dtype=stage.chat_model.dtype,
        count=0 if found is None else found.count,
        linear={} if found is None else {number: stored(tensor) for number, tensor in found.linear.items()},
        other={} if found is None else {name: stored(tensor) for name, tensor in found.other.items()},
        term_weights={} if found is None else {number: stored(tensor) for number, tensor in found.term_weights.items()},
        places={} if found is None else {name: stored(tensor) for name, tensor in found.entry_of.items()},
        reader=None if stage.features is None else (layer, position),
        settings={field.name: getattr(stage, field.name) for field in fields(stage) if field.name not in _MADE_ANEW},
    )


def release_stage(stage: SignalStage) -> None:
    """Give back the memory of a stage's model and directions, which cannot be used after this."""
    stage.chat_model.model.to("meta")
    if stage.directions is not None:
        for tensor in (*stage.directions.linear.values(), *stage.directions.other.values()):
            storage = tensor.untyped_storage()
            # one that is a file's memory is not, and takes none of this process's
            if storage.resizable():
                storage.resize_(0)
    if stage.chat_model.device.type == "cuda":
        torch.cuda.empty_cache()
