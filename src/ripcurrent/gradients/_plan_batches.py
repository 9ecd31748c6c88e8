"""Batches of similar lengths within a token budget."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group positions into batches whose padded size (rows × longest) stays within ``token_budget``.

    Rows are taken by length, longest first, ties by position, so that the plan depends on the lengths alone. A row
    longer than the budget is a batch of its own. Every position with a positive length is in exactly one batch.
    """
    order = sorted((place for place, length in enumerate(lengths) if length > 0), key=lambda p: (-lengths[p], p))
    batches: list[list[int]] = []
    for place in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= token_budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
