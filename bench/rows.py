"""Samples of real rows, named by the environment variable RIPCURRENT_DATA."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ripcurrent.data import EncodedRow, encode_rows, read_rows
from ripcurrent.models import ChatModel


def data_file(name: str) -> Path:
    """A file of the data folder; ends the run with a clear line when it is not there."""
    folder = os.environ.get("RIPCURRENT_DATA")
    if not folder or not (Path(folder) / name).exists():
        sys.exit(f"{name} is needed: set RIPCURRENT_DATA to the folder described in docs/data.md.")
    return Path(folder) / name


def sample(chat_model: ChatModel, name: str, count: int) -> list[EncodedRow]:
    """``count`` rows spread evenly over a file, encoded as a scan encodes them."""
    encoded = [r for r in encode_rows(read_rows(data_file(name)), chat_model.tokenizer) if r.status == "ok"]
    step = max(1, len(encoded) // count)
    return encoded[::step][:count]
