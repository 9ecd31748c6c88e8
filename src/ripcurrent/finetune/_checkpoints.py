"""Checkpoints that are whole or not there."""

import os
import shutil
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

MARK = "whole"
"""Written last into a checkpoint's folder; one without it was cut short."""


def seal(folder: Path) -> None:
    """Flush a checkpoint's files to disk and mark it as whole."""
    flush(folder)
    (folder / MARK).touch()
    flush(folder)


def latest(root: Path) -> Path | None:
    """The whole checkpoint of the most steps; None without one. Those that were cut short are removed."""
    if not root.is_dir():
        return None
    for folder in root.glob("checkpoint-*"):
        if not (folder / MARK).is_file():
            shutil.rmtree(folder)
    found = get_last_checkpoint(root)
    return None if found is None else Path(found)


def flush(folder: Path) -> None:
    """Flush a folder and all that it holds to disk."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
