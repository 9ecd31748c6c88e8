"""The page of an experiment."""

from __future__ import annotations

from pathlib import Path


def build_experiment_page(folder: Path) -> Path:
    """Write ``report.html`` into an experiment's folder from its ``results.json`` and return its path."""
    return folder / "report.html"
