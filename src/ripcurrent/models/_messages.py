"""One line out of a library's error."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """The first line that says something, without a full stop; the error's kind when there is none."""
    lines = [line.strip().removesuffix(".") for line in str(error).splitlines() if line.strip()]
    # PyTorch's own first line only says that loading failed; the reasons follow it.
    said = lines[1:] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines
    return said[0] if said else type(error).__name__
