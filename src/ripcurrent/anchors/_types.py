"""What an anchor set is."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from ripcurrent.data import Message

HARMFUL = "harmful"
"""Name of the set of harmful requests with a compliant opening."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """One example that a row is compared with."""

    set: str
    """``harmful``, or a safe set: ``safe_1``, ``safe_2`` …"""
    messages: tuple[Message, ...]
    """The conversation; it ends with an assistant turn."""
    category: str | None = None
    """What the request is about, if the file says."""


@dataclass(frozen=True, slots=True)
class AnchorSet:
    """Anchors in one order: the harmful set first, then the safe sets by name."""

    name: str
    """``builtin``, ``second_family``, or the file's name."""
    sha256: str
    """Hash of the file's content."""
    anchors: tuple[Anchor, ...]
    """Every anchor, grouped by set."""

    @property
    def sets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(anchor.set for anchor in self.anchors))

    @property
    def safe_sets(self) -> tuple[str, ...]:
        return tuple(name for name in self.sets if name != HARMFUL)

    def places(self, name: str) -> list[int]:
        """Positions of a set's anchors in ``anchors``."""
        return [place for place, anchor in enumerate(self.anchors) if anchor.set == name]

    @property
    def order(self) -> list[tuple[str, int]]:
        """For each anchor its set and its number within it, as reports name it."""
        return [(name, number) for name in self.sets for number in range(len(self.places(name)))]

    @property
    def info(self) -> AnchorsInfo:
        """What a manifest keeps of the set."""
        return AnchorsInfo(name=self.name, sha256=self.sha256, order=tuple(self.order))


class AnchorsInfo(BaseModel):
    """What a manifest keeps of an anchor set."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    sha256: str
    order: tuple[tuple[str, int], ...] = ()
    """For each anchor its set and its number within it."""
