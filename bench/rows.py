"""Samples of real rows, named by the environment variable RIPCURRENT_DATA."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from ripcurrent.data import EncodedRow, encode_rows, read_rows
from ripcurrent.models import ChatModel


def data_file(name: str) -> Path:
    """A file of the data folder; ends the run with a clear line when it is not there."""
    folder = os.environ.get("RIPCURRENT_DATA")
    if not folder or not (Path(folder) / name).exists():
        sys.exit(f"{name} is needed: set RIPCURRENT_DATA to the folder described in docs/data.md.")
    return Path(folder) / name


def sample(chat_model: ChatModel, name: str, count: int) -> list[EncodedRow]:
    """``count`` rows, as long and as short as the file's are, in its order and encoded as a scan encodes them.

    One row from the middle of each of so many equal parts by length: few rows have the file's mean length too, on which
    every figure of speed depends.
    """
    encoded = [r for r in encode_rows(read_rows(data_file(name)), chat_model.tokenizer) if r.status == "ok"]
    by_length = np.argsort([len(row.tokens) for row in encoded], kind="stable")
    middles = (np.arange(count) + 0.5) * len(encoded) / count
    return [encoded[place] for place in np.unique(by_length[middles.astype(int)])]
