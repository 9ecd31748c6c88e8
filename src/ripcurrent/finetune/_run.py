"""A finished fine-tuning on disk, and what its manifest says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, JsonValue

from ripcurrent.data import DatasetInfo
from ripcurrent.finetune._recipe import FinetuneOptions, Recipe
from ripcurrent.models import ModelInfo
from ripcurrent.runs import Manifest

ROWS, LOSSES, CHECKPOINTS = "rows.jsonl", "loss.jsonl", "checkpoints"
"""In the run folder: the rows' ids and hashes, the loss of every step, and, until the run ends, its checkpoints."""

ResultKind = Literal["model", "adapter"]
"""What a run leaves: a whole model, or a LoRA adapter for the model that was named."""


class TrainedRows(BaseModel, frozen=True, use_attribute_docstrings=True):
    """The rows of a run."""

    count: int
    """Rows of the dataset."""
    trained: int
    left_out: dict[str, int]
    """Rows that were not trained on, by reason."""
    truncated: int
    """Rows of which only the head was trained."""
    loss_tokens: int
    tokens_sha256: str
    """Hash of all tokens and labels, in order."""
    file: str = ROWS


class TrainingFacts(BaseModel, frozen=True, use_attribute_docstrings=True):
    """What a run's training did."""

    kind: ResultKind
    steps: int
    resumed_from: int
    """Steps that were done when the last call began; 0 for a run in one go."""
    first_loss: float
    """Loss of the first step: mean over its tokens, in nats."""
    last_loss: float
    seconds: float
    """Time that the last call trained."""
    trained_parameters: int
    """Scalar parameters that were trained."""
    compute: str
    """Type of the products."""
    report_to: tuple[str, ...] = ()
    """Trackers that got every step."""


class FinetuneManifest(Manifest):
    """The manifest of a fine-tuning run."""

    dataset: DatasetInfo
    rows: TrainedRows
    model: ModelInfo
    """The model that training began with, by what training does not change."""
    recipe: Recipe
    options: FinetuneOptions
    training: TrainingFacts
    notes: tuple[str, ...] = ()
    """What a user should know of the rows."""


@dataclass(frozen=True, slots=True)
class FinetuneRun:
    """A finished fine-tuning: ``model`` or ``adapter``, ``loss.jsonl``, ``rows.jsonl``, ``manifest.json``."""

    folder: Path
    manifest: FinetuneManifest

    @classmethod
    def open(cls, folder: str | Path) -> FinetuneRun:
        """The finished run in a folder; raises `RipcurrentError` where it holds none."""
        return cls(Path(folder), FinetuneManifest.read(Path(folder)))

    @property
    def kind(self) -> ResultKind:
        """What the run leaves."""
        return self.manifest.training.kind

    @property
    def result(self) -> Path:
        """Folder of the trained model, or of the adapter."""
        return self.folder / self.kind

    @property
    def loss_path(self) -> Path:
        """The loss of every step, as JSON lines."""
        return self.folder / LOSSES

    def to_json(self) -> dict[str, JsonValue]:
        """What ``finetune --json`` prints."""
        found, training = self.manifest, self.manifest.training
        return {
            "run": str(self.folder),
            "model": str(self.result) if self.kind == "model" else None,
            "adapter": str(self.result) if self.kind == "adapter" else None,
            "base": found.model.name,
            "recipe": found.recipe.name,
            "seed": found.options.seed,
            "rows": found.rows.count,
            "trained_rows": found.rows.trained,
            "left_out": dict(found.rows.left_out),
            "truncated": found.rows.truncated,
            "steps": training.steps,
            "first_loss": training.first_loss,
            "last_loss": training.last_loss,
            "seconds": training.seconds,
            "notes": list(found.notes),
        }
