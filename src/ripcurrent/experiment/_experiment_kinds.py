"""What an experiment's file can be besides arms, each run by a module of its own, loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ripcurrent.progress import Progress

OTHER_KINDS: dict[str, str] = {
    "probe": "ripcurrent.experiment._row_probe",
    "mechanism": "ripcurrent.experiment._mechanism",
    "edits": "ripcurrent.experiment._run_format_edits",
}
"""By ``kind``, the module whose ``run(config, folder, *, progress)`` does it and keeps and returns ``results.json``."""


def run_other_kind(kind: str, config: dict[str, Any], folder: Path, *, progress: Progress) -> dict[str, Any]:
    """Run an experiment of another kind than arms from its file's keys, and write its page.

    Returns:
        The result as ``--json`` prints it.
    """
    from ripcurrent.report import build_instrument_page

    run: Callable[..., dict[str, Any]] = import_module(OTHER_KINDS[kind]).run
    result = run(config, folder, progress=progress)
    build_instrument_page(folder)
    return result
