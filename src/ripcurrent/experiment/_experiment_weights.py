"""One set of weights for all of an experiment: scanned with, asked as it is, and trained from, whatever its name."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import BASE, ExperimentConfig
from ripcurrent.experiment._experiment_scans import Pool
from ripcurrent.runs import read_manifest


def weights_asked(folder: Path) -> str | None:
    """The fingerprint of the model that an experiment asked as it is; None where it was not."""
    place = folder / "arms" / BASE / "evaluation"
    return read_manifest(place)["model"].get("fingerprint") if (place / "manifest.json").is_file() else None


def require_scanned_weights(config: ExperimentConfig, pools: Iterable[Pool], own: str | None) -> None:
    """Refuse a model that had other weights under the same name when rows were scored with it.

    Raises:
        RipcurrentError: It had.
    """
    for pool in pools:
        scanned, options = pool.manifest["model"], pool.manifest["options"]
        named = (scanned.get("name"), options.get("adapter"))
        # a fresh or unmerged LoRA is part of the fingerprint of a model that was scanned with one
        if named != (config.model, config.adapter) or options.get("scope") == "lora":
            continue
        if own is not None and scanned.get("fingerprint") not in (None, own):
            raise RipcurrentError(
                f"The model {config.model} has changed since {pool.scores.folder} was made with it: rows would be "
                "chosen by scores of other weights.",
                "Scan again into a new folder, and give the experiment a new one, too.",
            )


def require_same_weights(config: ExperimentConfig, folder: Path, arm_folder: Path, own: str) -> None:
    """Refuse an arm that was trained from other weights than those asked or trained before; its training is removed.

    Raises:
        RipcurrentError: It was.
    """
    if weights_asked(folder) not in (None, own):
        shutil.rmtree(arm_folder / "finetune")
        raise RipcurrentError(
            f"The model {config.model} has changed since it was asked as it is.",
            f"Name another folder with --out, or remove {folder / 'arms' / BASE} to ask it anew.",
        )
    for marker in sorted((folder / "arms").glob("*/arm.json")):
        manifest = marker.parent / "finetune" / "manifest.json"
        if not manifest.is_file() or marker.parent == arm_folder:
            continue
        if read_manifest(marker.parent / "finetune")["model"]["fingerprint"] != own:
            shutil.rmtree(arm_folder / "finetune")
            raise RipcurrentError(
                f"The model {config.model} has changed since {marker.parent.name} was trained from it.",
                "Name another folder with --out, so that arms of two models are not compared as one's.",
            )
