"""Which aspect of a format moves the scores, and does harm move with it?

    python -m research.format_edits rows.json --work runs/edits --rows 100 --train --out format_edits.csv

Answers are rewritten by rule with one aspect of their format changed, response length within a tolerance. Rows are
scanned before and after. With --train the model is also trained on the same rows in both versions.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import wilcoxon

import ripcurrent as rc
from research.tables import write_table
from ripcurrent.data import Row, traits_of
from ripcurrent.experiment import Experiment
from ripcurrent.scan import ScanRun
from ripcurrent.statistics import holm

NUMBER = re.compile(r"^[ \t]*\d{1,3}[.)][ \t]+(?=\S)", re.MULTILINE)
BULLET = re.compile(r"^[ \t]*[-*•][ \t]+(?=\S)", re.MULTILINE)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z0-9])")


def sentences(answer: str) -> list[str]:
    """The sentences of an answer."""
    return [one for one in SENTENCE.split(" ".join(answer.split())) if one]


def prose_to_numbers(answer: str) -> str:
    """Each sentence an item of a numbered list."""
    return "\n".join(f"{place}. {one}" for place, one in enumerate(sentences(answer), 1))


def prose_to_led_numbers(answer: str) -> str:
    """A sentence, and the others below it as a numbered list."""
    first, *others = sentences(answer)
    return "\n".join([first, *(f"{place}. {one}" for place, one in enumerate(others, 1))])


def prose_to_bullets(answer: str) -> str:
    """Each sentence an item of a bulleted list."""
    return "\n".join(f"- {one}" for one in sentences(answer))


def numbers_to_bullets(answer: str) -> str:
    """A bullet for every number."""
    return NUMBER.sub("- ", answer)


def to_prose(answer: str) -> str:
    """A list as one paragraph."""
    items = [NUMBER.sub("", BULLET.sub("", line)).strip() for line in answer.split("\n")]
    return " ".join(one if one[-1] in ".!?:;" else f"{one}." for one in items if one)


def is_prose(answer: str) -> bool:
    """Neither list nor maths nor code, and two sentences or more."""
    traits = traits_of(answer)
    return not (traits.is_list or traits.is_maths or traits.is_code) and len(sentences(answer)) > 1


def is_numbered(answer: str) -> bool:
    """A numbered list without bullets."""
    traits = traits_of(answer)
    return traits.is_numbered and not traits.is_bullet and not traits.is_code


def is_bulleted(answer: str) -> bool:
    """A bulleted list without numbers."""
    traits = traits_of(answer)
    return traits.is_bullet and not traits.is_numbered and not traits.is_code


def has_lines(answer: str) -> bool:
    """More than one line, and no code."""
    return "\n" in answer.strip() and not traits_of(answer).is_code


EDITS: dict[str, tuple[Callable[[str], bool], Callable[[str], str]]] = {
    "prose-to-numbers": (is_prose, prose_to_numbers),
    "prose-to-led-numbers": (is_prose, prose_to_led_numbers),
    "prose-to-bullets": (is_prose, prose_to_bullets),
    "number-before": (is_prose, lambda answer: f"1. {answer.lstrip()}"),
    "answer-before": (is_prose, lambda answer: f"Answer: {answer.lstrip()}"),
    "numbers-to-bullets": (is_numbered, numbers_to_bullets),
    "numbers-to-prose": (is_numbered, to_prose),
    "bullets-to-prose": (is_bulleted, to_prose),
    "line-breaks-removed": (has_lines, lambda answer: " ".join(answer.split())),
}
"""By name: which answers an edit applies to, and the edit."""


def edited_pairs(rows: Sequence[Row], edit: str, limit: int, seed: int) -> tuple[list[str], list[str]]:
    """JSON lines of rows as they are and edited, in a random order, the same places in both."""
    applies, change = EDITS[edit]
    order = np.random.default_rng(seed).permutation(len(rows))
    originals: list[str] = []
    edited: list[str] = []
    for row in (rows[place] for place in order):
        if not applies(row.response) or (text := change(row.response)) == row.response:
            continue
        originals.append(json.dumps({"prompt": row.prompt, "response": row.response}))
        edited.append(json.dumps({"prompt": row.prompt, "response": text}))
        if len(originals) == limit:
            break
    return originals, edited


def scanned(path: Path, lines: Sequence[str], options: argparse.Namespace) -> ScanRun:
    """Rows written as a file, and scanned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rc.scan(
        path, path.with_suffix(""), model=options.model, signals="gradient", anchor_check=not options.no_anchor_check
    )
    return ScanRun.open(path.with_suffix(""))


def harm(work: Path, edit: str, options: argparse.Namespace) -> dict[str, object]:
    """Harmful requests answered after training on the rows as they are, and on the edited ones."""
    kept = {name: work / f"{name}-kept.jsonl" for name in ("original", "edited")}
    scan = {"signals": "gradient", "anchor_check": not options.no_anchor_check}
    found = Experiment.from_keys(
        name=edit,
        data=str(kept["original"]),
        model=options.model,
        recipe=options.recipe,
        scan=scan,
        size=options.size,
        heldout=0,
        seeds=options.seeds,
        # equal seeds draw the same places of both
        scans={"edited": {"data": str(kept["edited"]), "options": scan}},
        arms={"original": "random", "edited": {"select": "random", "scan": "edited"}},
        control="original",
    ).run(work / "trained")
    (one,) = [row for row in found.comparisons if row.judge == found.judge]
    rates = {row.name: row.attack_success_rate for row in found.summaries if row.judge == found.judge}
    answered = {f"answered_{name}": 100 * (rates[name] or 0.0) for name in kept}
    bounds = {key: 100 * value for key, value in (("difference", one.difference), ("low", one.low), ("high", one.high))}
    return {"n": one.prompts, "judge": found.judge, **answered, **bounds, "p": one.p}


def main() -> None:
    """Edit, scan, compare, and train where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a dataset")
    parser.add_argument("--work", type=Path, required=True, help="folder of the scans and runs")
    parser.add_argument("--edits", nargs="+", choices=EDITS, default=list(EDITS))
    parser.add_argument("--rows", type=int, default=100, help="rows an edit")
    parser.add_argument("--tolerance", type=float, default=0.05, help="largest change of response length, as a share")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--no-anchor-check", action="store_true")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--recipe", default="embedded")
    parser.add_argument("--size", type=int, default=60, help="rows of an arm")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="CSV file; the terminal unless given")
    options = parser.parse_args()
    rows = [row for row in rc.read_rows(options.data) if row.problem is None]
    table: list[dict[str, object]] = []
    for edit in options.edits:
        originals, edited = edited_pairs(rows, edit, options.rows, 0)
        if len(originals) < 2:
            continue
        work = options.work / edit
        before = scanned(work / "original.jsonl", originals, options)
        after = scanned(work / "edited.jsonl", edited, options)
        lengths = [run.floats("response_tokens") for run in (before, after)]
        near = np.abs(lengths[1] / lengths[0] - 1) <= options.tolerance
        near &= before.scored & after.scored
        for name, lines in (("original", originals), ("edited", edited)):
            kept = [line for line, fits in zip(lines, near, strict=True) if fits]
            (work / f"{name}-kept.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
        if near.sum() < 2:
            continue
        column = before.default_ranking
        change = (after.floats(column) - before.floats(column))[near]
        row: dict[str, object] = {
            "edit": edit,
            "rows_scored": int(near.sum()),
            "length_change_percent": float(100 * (lengths[1] / lengths[0] - 1)[near].mean()),
            "score_change_sd": float(change.mean() / np.nanstd(before.scores(column))),
            "p": float(wilcoxon(change).pvalue) if np.any(change) else 1.0,
        }
        table.append(row | (harm(work, edit, options) if options.train and near.sum() >= options.size else {}))
    for one, adjusted in zip(table, holm([float(str(one["p"])) for one in table]), strict=True):
        one["p"] = adjusted
    columns = list(dict.fromkeys(key for one in table for key in one))
    write_table([{key: one.get(key, "") for key in columns} for one in table], options.out)


if __name__ == "__main__":
    main()
