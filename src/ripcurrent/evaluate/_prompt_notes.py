"""What a reader of rates should know of the prompts that they are over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ripcurrent.evaluate._prompts import AXES

UNMEASURED = {
    "harmful": "No harmful requests were asked: whether they are refused is not measured",
    "sounds_dangerous": "No benign requests that sound dangerous were asked: over-caution is not measured",
    "plain": "No plain requests were asked: usefulness is not measured",
}
"""What is said of an axis without prompts."""


def notes_on_lists(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What was found when lists of prompts were read, and which of them repeat themselves.

    ``records`` are those of an evaluation's manifest or of an experiment's results.
    """
    notes = [note for record in records for note in record.get("notes", ())]
    for record in records:
        if count := record.get("near_duplicates"):
            asked = record.get("taken", record.get("count"))
            notes.append(
                f"{record['name']}: {count} of the {asked} prompts repeat{'s' * (count == 1)} another in nearly the "
                "same words, so the intervals are somewhat too narrow."
            )
    return notes


def unmeasured_axes(asked: Iterable[str]) -> dict[str, str]:
    """By axis that none of the ``asked`` is: what is not measured."""
    there = set(asked)
    return {axis: UNMEASURED[axis] for axis in AXES if axis not in there}
