"""What a library's error says: in one line, and whether memory ran out."""

from __future__ import annotations

import torch

_SAID = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "alloc_failed",
    "bad_alloc",
)
"""Parts of what libraries say when memory runs out, where they raise a plain RuntimeError; lower case."""


def first_line(error: BaseException) -> str:
    """The first line that says something, without a full stop, at most 300 characters; else the error's kind."""
    lines = [line.strip().removesuffix(".") for line in str(error).splitlines() if line.strip()]
    # PyTorch's own first line only says that loading failed; the reasons follow it.
    said = lines[1:] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines
    return said[0][:300] if said else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the processor's side."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in _SAID)
