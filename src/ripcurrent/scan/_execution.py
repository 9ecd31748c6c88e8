"""Who computes a scan's shards: this process, or workers of a Ray cluster."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ripcurrent.data import Dataset, Row
from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import Directions, in_memory
from ripcurrent.models import ChatModel
from ripcurrent.progress import SilentProgress
from ripcurrent.scan._options import Execution, ScanOptions
from ripcurrent.scan._passes import ScanPasses, SignalStage
from ripcurrent.scan._ray import ray_cluster, score_on_ray
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.scan._shards import Shard, ShardReader, Tables, score_shards


def scorer(
    execution: Execution, rows: Dataset, options: ScanOptions, count: int, stage: SignalStage
) -> Callable[[Sequence[Shard]], Tables]:
    """How shards of ``count`` rows are scored. Under Ray the stage's model and directions are given up."""
    if execution.executor == "local":
        return partial(score_shards, read=ShardReader(rows.iter_from, count), stage=stage)
    on_gpu = stage.chat_model.device.type == "cuda"

    def score(shards: Sequence[Shard]) -> Tables:
        with ray_cluster(execution.ray_address) as ray:
            found = stage.directions and on_device(stage.directions, torch.device("cpu"))
            elsewhere = RemoteScan(
                # of several, its own GPU
                options.model_copy(update={"device": stage.chat_model.device.type}),
                rows.path,
                rows.sampled_hash(),
                identity_of(stage.chat_model),
                partial(ray.get, ray.put(found)),
                stage.anchor_features,
            )
            # a worker may need this very GPU
            release_stage(stage)
            reader = ShardReader(elsewhere.rows, count)
            for shard, table in score_on_ray(ray, shards, reader, elsewhere.stage, execution.workers, use_gpu=on_gpu):
                stage.on_rows(shard.rows)
                yield shard, table

    return score


@dataclass(frozen=True, slots=True)
class RemoteScan:
    """What another process needs to score the same rows the same way, small enough to send."""

    options: ScanOptions
    path: str
    """The dataset's, from the folder that the scan was started in."""
    sampled: str | None
    """The dataset's `sampled_hash` there."""
    identity: Mapping[str, str]
    """What `identity_of` gives there."""
    directions: Callable[[], Directions | None]
    anchor_features: npt.NDArray[np.float32] | None

    def rows(self, start: int) -> Iterator[Row]:
        """The rows from the ``start``-th on; an error where the dataset is another one here."""
        options = self.options
        rows = options.open(self.path)
        if rows.sampled_hash() != self.sampled:
            raise RipcurrentError(
                f"On {socket.gethostname()} {self.path} is another file than where the scan was started.",
                "Every machine must read the same file: put it on a shared disk.",
            )
        return rows.iter_from(start)

    def stage(self) -> SignalStage:
        """Load the model and make the stage; an error where they do not fit, or scores would differ here."""
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
            found = self.directions()
            found = found and on_device(found, chat_model.device)
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


def on_device(found: Directions, device: torch.device) -> Directions:
    """The directions on a device; those that are there share their memory."""
    parts: tuple[Mapping[Any, Tensor], ...] = (found.linear, found.other, found.term_weights, found.entry_of)
    return Directions(found.count, *({key: tensor.to(device) for key, tensor in part.items()} for part in parts))


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
