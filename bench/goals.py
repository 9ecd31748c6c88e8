"""How a figure stands to its goals, in words."""

from __future__ import annotations

from collections.abc import Sequence


def judged(value: float, goals: Sequence[float], *, more: bool) -> str:
    """One goal, or a first one and the one after it, and whether they are met; ``more`` where more is better."""
    met = [value >= goal if more else value <= goal for goal in goals]
    verdict = "pass" if all(met) else "first goal passed, FALLS SHORT of the second" if met[0] else "FALLS SHORT"
    wanted = " and ".join(f"{'≥' if more else '≤'} {goal:g}" for goal in goals)
    return f"goal{'s' * (len(goals) > 1)} {wanted}: {verdict}"


def line(label: str, value: float, goals: Sequence[float] | None, *, more: bool) -> str:
    """A figure with its goals, where it has some."""
    return f"  {label:<44} {value:6.2f}" + (f"   {judged(value, goals, more=more)}" if goals else "")
