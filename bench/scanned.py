"""A finished scan that a bench works on, with its rows and its model, both as they were scanned."""

from __future__ import annotations

from pathlib import Path

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._instruments import Scanned
from ripcurrent.experiment._scanned import ScannedRows, open_scan
from ripcurrent.models import ChatModel
from ripcurrent.progress import SilentProgress
from ripcurrent.scan._scan_model import load_scan_model


def open_run(run: Path) -> tuple[ScannedRows, ChatModel]:
    """A finished scan and its model, ready to compute.

    Raises:
        RipcurrentError: No finished scan, a dataset or a model that has changed since, or a scan of parts of rows.
    """
    scanned = open_scan(Scanned(run=str(run)), run, SilentProgress())
    if scanned.options.row_tokens is not None or scanned.options.windows:
        raise RipcurrentError(
            f"{run} scored parts of rows.", "Give a scan of whole rows, without --row-tokens and --windows."
        )
    chat_model = load_scan_model(scanned.options)
    if chat_model.fingerprint != scanned.manifest["model"]["fingerprint"]:
        raise RipcurrentError(
            f"{scanned.options.model} is another model than the one that was scanned.",
            "Put that model back, or scan again with this one.",
        )
    return scanned, chat_model
