"""What goes through the model: the passes over rows, and the stage that a scan makes of them."""

from __future__ import annotations

from pathlib import Path

from ripcurrent.gradients import Directions, FeatureReader, GradientPass, in_memory
from ripcurrent.models import ChatModel, describe
from ripcurrent.progress import Progress
from ripcurrent.scan._memory import scan_directions
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._prepared_anchors import PreparedAnchors
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
        self.gradient_pass = GradientPass(chat_model) if options.wants_gradient else None
        """None without gradient signals."""
        self.features: FeatureReader | None = None
        """None without representation signals."""
        if options.wants_representation:
            self.features = FeatureReader(chat_model, layer=options.layer, position=options.position)
        if options.tokens is not None and self.gradient_pass is not None:
            self.gradient_pass.require_token_axes()

    def directions(self, anchors: PreparedAnchors, folder: Path) -> Directions | None:
        """The harmful and the safe direction: in memory, or in files of ``folder`` where ``--memory`` asks for it."""
        if self.gradient_pass is None:
            return None
        with in_memory("The directions"):
            return scan_directions(self.gradient_pass, anchors, self.chat_model, self.options, folder)

    def stage(self, anchors: PreparedAnchors, folder: Path, progress: Progress) -> SignalStage:
        """The stage that scores shards of rows."""
        options = self.options
        return SignalStage(
            chat_model=self.chat_model,
            token_budget=options.batch_tokens,
            gradient_pass=self.gradient_pass,
            directions=self.directions(anchors, folder),
            features=self.features,
            anchor_features=anchors.features,
            max_tokens=options.max_tokens,
            loss_on=options.loss_on,
            row_tokens=options.row_tokens,
            drop_refusals=options.drop_refusals,
            windows=options.windows,
            mapping=options.mapping or {},
            on_rows=progress.rows,
        )
