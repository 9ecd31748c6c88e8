"""Checkpoints that are whole or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MARK = "whole"
"""Written last into a checkpoint's folder; one without it was cut short."""


def seal(folder: Path) -> None:
    """Flush a checkpoint's files to disk and mark it as whole."""
    for file in folder.rglob("*"):
        if file.is_file():
            _flush(file)
    mark = folder / MARK
    mark.touch()
    _flush(mark)
    _flush(folder)


def latest(root: Path) -> Path | None:
    """The whole checkpoint of the most steps; None without one. Those that were cut short are removed."""
    found = sorted(root.glob("checkpoint-*"), key=steps_of) if root.is_dir() else []
    whole = [folder for folder in found if (folder / MARK).is_file()]
    for folder in set(found) - set(whole):
        shutil.rmtree(folder)
    return whole[-1] if whole else None


def keep_only(folder: Path) -> None:
    """Remove the checkpoints beside this one."""
    for other in folder.parent.glob("checkpoint-*"):
        if other != folder:
            shutil.rmtree(other)


def steps_of(folder: Path) -> int:
    """Optimizer steps done at a checkpoint, from its name."""
    return int(folder.name.rpartition("-")[2])


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
