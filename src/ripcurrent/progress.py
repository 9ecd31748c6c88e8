"""What a long computation tells its caller as it goes."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the steps of a computation and counts of rows, or of what ``unit`` names."""

    def step(self, name: str) -> None:
        """A step without a count begins."""

    def start(self, name: str, total: int, unit: str = "rows") -> None:
        """A counted step over ``total`` rows, prompts or answers begins."""

    def rows(self, count: int) -> None:
        """So many rows were computed."""

    def skipped(self, count: int) -> None:
        """So many rows were already there."""

    def finish(self) -> None:
        """The counted step ended."""


class SilentProgress:
    """Tells nobody."""

    def step(self, name: str) -> None:
        """Ignore a step."""

    def start(self, name: str, total: int, unit: str = "rows") -> None:
        """Ignore a start."""

    def rows(self, count: int) -> None:
        """Ignore rows."""

    def skipped(self, count: int) -> None:
        """Ignore rows."""

    def finish(self) -> None:
        """Ignore the end."""
