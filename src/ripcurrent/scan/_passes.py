"""What goes through the model: the passes over rows, and the stage that a scan makes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ripcurrent.anchors import AnchorSet
from ripcurrent.data import Dataset
from ripcurrent.gradients import Directions, FeatureReader, GradientPass, MappedStore, in_memory, stack_directions
from ripcurrent.models import ChatModel, describe
from ripcurrent.progress import Progress
from ripcurrent.runs import RunFolder
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._prepared_anchors import PreparedAnchors, prepare_anchors
from ripcurrent.scan._scan_model import MemoryPlan, fitting_stage
from ripcurrent.scan._signal_stage import SignalStage


class ScanPasses:
    """A model with the passes that a scan's options ask for.

    Raises:
        RipcurrentError: The model has a layer that is not covered, no such block, or token shares cannot be told apart.
    """

    def __init__(self, chat_model: ChatModel, options: ScanOptions) -> None:
        self.chat_model = chat_model
        self.options = options.decided(chat_model.device.type)
        """The options, with the device's token budget."""
        self.model = describe(chat_model)
        """Facts about the model; Ray's workers may get its weights, and only shapes are left here."""
        self.memory_plan = MemoryPlan(self.options.batch_tokens, mapped_directions=False)
        """How memory is kept to; decided with the stage."""
        self.gradient_pass = GradientPass(chat_model) if options.wants_gradient else None
        """None without gradient signals."""
        self.features: FeatureReader | None = None
        """None without representation signals."""
        if options.wants_representation:
            self.features = FeatureReader(chat_model, layer=options.layer, position=options.position)
        if options.tokens is not None and self.gradient_pass is not None:
            self.gradient_pass.require_token_axes()

    def anchors(self, anchor_set: AnchorSet, progress: Progress) -> PreparedAnchors:
        """The anchors, measured with these passes; see :func:`prepare_anchors`.

        Raises:
            RipcurrentError: An anchor cannot be used with this model, or the directions do not fit into memory.
        """
        with in_memory("The anchors' directions"):
            return prepare_anchors(
                anchor_set, self.chat_model, self.options, self.gradient_pass, self.features, on_step=progress.step
            )

    def directions(self, stored: Sequence[Mapping[str, Tensor]], mapped_in: Path | None) -> Directions | None:
        """The harmful and the safe direction, in memory or in files of a folder; None without gradient signals."""
        if self.gradient_pass is None:
            return None
        layers, dtype = self.gradient_pass.layers, self.chat_model.dtype
        if mapped_in is None:
            return stack_directions(layers, stored, dtype)
        store = MappedStore(mapped_in)
        stacked = stack_directions(layers, stored, dtype, empty=store.empty, written=store.let_go)
        return store.directions(stacked, self.chat_model.device)

    def stage(self, anchors: PreparedAnchors, run: RunFolder, rows: Dataset, progress: Progress) -> SignalStage:
        """The stage that scores shards of rows, as it fits into memory."""

        def make(mapped: bool) -> SignalStage:
            directions = self.directions(anchors.both_directions(), run.folder if mapped else None)
            return self.stage_of(directions, anchors.features, progress)

        device, needed = self.chat_model.device, anchors.directions_bytes()
        stage, self.memory_plan = fitting_stage(make, self.options, run.decided, rows, needed, device)
        return stage

    def stage_of(
        self, directions: Directions | None, anchor_features: npt.NDArray[np.float32] | None, progress: Progress
    ) -> SignalStage:
        """A stage with these directions and anchors' unit features."""
        options = self.options
        return SignalStage(
            chat_model=self.chat_model,
            token_budget=options.batch_tokens,
            gradient_pass=self.gradient_pass,
            directions=directions,
            features=self.features,
            anchor_features=anchor_features,
            max_tokens=options.max_tokens,
            loss_on=options.loss_on,
            row_tokens=options.row_tokens,
            drop_refusals=options.drop_refusals,
            windows=options.windows,
            mapping=options.mapping or {},
            on_rows=progress.rows,
        )
