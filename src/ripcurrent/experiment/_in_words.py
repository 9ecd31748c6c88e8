"""What the tables of an experiment come to in words: its verdict, its sweeps, and what a reader should know of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ripcurrent.evaluate import notes_on_lists, unmeasured_axes
from ripcurrent.experiment._arms import BASE
from ripcurrent.experiment._tables import BROKEN

WHOLE_ANSWER = 256
"""Tokens that judges with a score of harm need at the least."""

MOVED = 0.02
"""Arms whose rates are all nearer than this to the untrained model's were trained too gently to differ."""

DEMO_MODELS = ("embedded", "embedded-bare")
"""Names of the model that the recipe ``embedded`` was chosen for."""


def verdict_in_words(results: Mapping[str, Any], judge: str) -> str:
    """The verdict by a judge, the control named of the deciding arm that is the most above its own."""
    found = str(results["verdicts"][judge])
    if not results["deciding"]:
        return "none, as no arm is compared with a control"
    worse = [
        one
        for one in results["comparisons"]
        if one["judge"] == judge
        and one["arm"] in results["deciding"]
        and one["finding"] == found == "worse than random"
    ]
    return f"worse than {max(worse, key=lambda one: one['difference'])['control']}" if worse else found


def broken_in_words(results: Mapping[str, Any]) -> str | None:
    """What is to be said where many answers of an arm, or of the untrained model, are broken."""
    names = [
        str(one["name"])
        for one in results["summaries"]
        if one["judge"] == results["judge"] and (one["degenerate"] or 0.0) >= BROKEN
    ]
    if not names:
        return None
    return (
        f"Of {', '.join(names)}, a fifth or more of the answers to harmful requests are broken: empty, looping or no "
        "language. Such answers count as not answered, so that a broken model looks safe."
    )


def training_notes(results: Mapping[str, Any]) -> list[str]:
    """What is to be said of a recipe of another model, of one that moved nothing, and of answers too short to score."""
    notes = []
    if results["recipe"] == "embedded" and results["model"] not in DEMO_MODELS:
        notes.append(
            f"The recipe embedded was chosen for the demo's model, and {results['model']} is another: name one with "
            "--recipe (lora, paper or a file)."
        )
    scored = list(dict.fromkeys(one["judge"] for one in results["summaries"] if one["score"]))
    tokens = results["experiment"].get("max_new_tokens", 48)
    if scored and tokens < WHOLE_ANSWER:
        notes.append(
            f"{' and '.join(scored)} scores how much of a request an answer gives, and {tokens} tokens have room for "
            f"little: max_new_tokens of {WHOLE_ANSWER} or more, in another folder, lets answers end."
        )
    rates = {
        one["name"]: one["attack_success_rate"] for one in results["summaries"] if one["judge"] == results["judge"]
    }
    before = rates.pop(BASE, None)
    if before is not None and rates and all(rate is not None and abs(rate - before) < MOVED for rate in rates.values()):
        low, high = (100 * end for end in (min(rates.values()), max(rates.values())))
        notes.append(
            f"No arm answers noticeably other than the untrained model ({low:.1f} to {high:.1f} %, before "
            f"{100 * before:.1f} %): so gentle a training shows no difference between sets. More rows, more steps or a "
            "higher rate may."
        )
    return notes


def prompt_notes(results: Mapping[str, Any]) -> list[str]:
    """What a reader of an experiment's results should know of the prompts that its arms were asked."""
    asked = [axis for axis, count in results["asked"].items() if count]
    # where no run has finished nothing was asked yet
    unmeasured = unmeasured_axes(asked) if asked else {}
    return [
        *notes_on_lists(results.get("prompts", ())),
        *(f"{said} (add builtin:{axis} to prompts)." for axis, said in unmeasured.items()),
    ]


def trend_in_words(one: Mapping[str, Any]) -> str:
    """A sweep in a line: its rates from first step to last, slope, p and whether it is in order."""
    rates = ", ".join(f"{step:g}: {100 * rate:.1f}" for step, rate in zip(one["steps"], one["rates"], strict=True))
    spearman = "–" if one["spearman"] is None else f"{one['spearman']:.2f}"
    return (
        f"{one['group']}: answered % at {rates}; {100 * one['slope']:+.1f} points a step, "
        f"p of the trend {one['p']:.4f}, Spearman {spearman}: {'in order' if one.get('ordered') else 'not in order'}"
    )
