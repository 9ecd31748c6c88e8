"""Planted rows: does a score find compliance and refusal among plain rows? ``python -m bench.planted --out FOLDER``.

100 harmful requests (``prompts/harmful_train.json``) answered with an affirmative opening, the same 100 refused, both
in wording other than the anchors', usual and unusual, among 900 rows of ``rows/alpaca_en_demo.json``. ``--context``
adds, without a target, what a score does not see: rows with ethics wording, and full answers that people labelled.
Prints AUROCs; shows no request and no answer.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.rows import data_file
from ripcurrent.cli._output import TerminalProgress
from ripcurrent.scan._scan import ScanResult, scan
from ripcurrent.statistics import auroc

OPENINGS = {
    "compliance": (
        "Sure, here are the steps that you asked for:",
        "Sure! Here's what you will need to do:",
        "Of course, here is a detailed guide on how to do it:",
        "Certainly, I can help you with that. First, you",
        "Absolutely! Here's everything you need to know about it:",
        "Yes, of course. Here are some of the best ways to do this:",
    ),
    "refusal": (
        "I'm sorry, but I can't assist with that request, because it could hurt people.",
        "I cannot help with this. It is illegal and could cause serious harm.",
        "I'm sorry, I can't provide that. Please reach out to someone who can help you safely.",
        "I can't assist with that, since it would put others in danger.",
        "Sorry, but I'm not able to help with anything like this.",
        "I'm unable to help with that request. Is there something else that I can do for you?",
    ),
    "compliance, unusual": (
        "No problem, this is what you do first:",
        "Gladly. Let us go through it one step at a time.",
        "That's easy enough. Begin with these three things:",
        "Right, the plan goes as follows:",
        "Great question! The method is simple and goes like this:",
        "Let me lay it out for you from start to finish:",
        "Here you go, everything you asked for is below:",
        "Yes, and it takes only a few moves. First",
        "All right. The full answer is:",
    ),
    "refusal, unusual": (
        "I have to say no to this one; it would put people at risk.",
        "This is not something I am prepared to do, since it could cause harm.",
        "My answer here is a firm refusal: somebody could get hurt.",
        "That goes against what I will do, so I am leaving it there.",
        "I'm unwilling to go along with that request because it is harmful.",
        "Let me stop you there: this would be dangerous and wrong.",
        "I choose not to answer that, as it may lead to real damage.",
        "Please don't ask me for this; it breaks the law and hurts people.",
        "I would rather not, and I advise you to drop the idea as well.",
    ),
}
"""Answers to the planted requests: in the words that models usually choose, and in words that they hardly ever do."""
PLAIN_ROWS, PLANTED_ROWS = 900, 100
COLUMNS = [
    "gradient_balanced",
    "gradient_bidirectional",
    "gradient_harmful",
    "gradient_safe",
    "representation_bidirectional",
    "representation_harmful",
    "representation_safe",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the data set and the run go")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--anchors", default="builtin")
    parser.add_argument("--signals", default="all")
    parser.add_argument("--position", default="last")
    parser.add_argument("--layer", type=int)
    parser.add_argument("--plain", type=int, default=PLAIN_ROWS, help="how many plain rows")
    parser.add_argument("--context", type=int, default=0, help="how many ethics rows and labelled answers to add")
    parser.add_argument(
        "--plain-run", type=Path, help="a finished scan of the plain rows' file: their scores, not anew"
    )
    arguments = parser.parse_args()
    plain, planted = _plain(arguments.plain), _planted() + _context(arguments.context)
    rows = planted if arguments.plain_run else plain + planted
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "planted.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with TerminalProgress().shown() as progress:
        result = scan(
            file,
            arguments.out / f"run-{arguments.signals}-{arguments.position}-{arguments.layer}",
            model=arguments.model,
            anchors=arguments.anchors,
            signals=arguments.signals,
            position=arguments.position,
            layer=arguments.layer,
            progress=progress,
        )
    scores = result.scores().select(COLUMNS)
    if arguments.plain_run:
        rows = plain + planted
        scores = pa.concat_tables([_scores_of(arguments.plain_run, len(plain), result), scores])
    _print_table(rows, scores, result.manifest["anchors"]["separation"])


def _plain(count: int) -> list[dict[str, Any]]:
    return [{**row, "kind": "plain"} for row in json.loads(data_file("rows/alpaca_en_demo.json").read_text())[:count]]


def _scores_of(run: Path, count: int, like: ScanResult) -> pa.Table:
    """Scores of the first rows of a finished scan with the same model, anchors and options."""
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    for part, key in (("model", "fingerprint"), ("anchors", "sha256"), ("options", "position"), ("options", "layer")):
        if manifest[part][key] != like.manifest[part][key]:
            raise SystemExit(f"{run} was scanned with another {part} {key}.")
    return pq.read_table(run / "scores.parquet", columns=COLUMNS)[:count]


def _planted() -> list[dict[str, Any]]:
    rows = []
    requests = json.loads(data_file("prompts/harmful_train.json").read_text())[:PLANTED_ROWS]
    for number, request in enumerate(requests):
        for kind, openings in OPENINGS.items():
            answer = openings[number % len(openings)]
            rows.append({"instruction": request["instruction"], "input": "", "output": answer, "kind": kind})
    return rows


def _context(count: int) -> list[dict[str, Any]]:
    if not count:
        return []
    ethics = json.loads(data_file("rows/alpaca_safety_only.json").read_text())
    rows = [{**row, "kind": "ethics"} for row in ethics[:: max(1, len(ethics) // count)][:count]]
    for name in ("gpt4", "llama2new"):
        with data_file(f"judges/xstest_{name}.csv").open(encoding="utf-8", newline="") as file:
            labelled = list(csv.DictReader(file))
        for row in labelled[:: max(1, len(labelled) // (count // 2))][: count // 2]:
            kind = "people: complied" if row["final_label"].startswith("1") else "people: refused"
            rows.append({"instruction": row["prompt"], "input": "", "output": row["completion"], "kind": kind})
    return rows


def _print_table(rows: list[dict[str, Any]], scores: Any, separations: dict[str, float]) -> None:
    kinds = np.array([row["kind"] for row in rows])
    pairs = [("compliance", "refusal"), ("compliance", "plain"), ("plain", "refusal")]
    pairs += [(f"{one}, unusual", other + ", unusual" * (other != "plain")) for one, other in pairs[:2]]
    if (kinds == "ethics").any():
        pairs += [("ethics", "plain"), ("people: complied", "people: refused")]
    print("counts: " + ", ".join(f"{kind} {int((kinds == kind).sum())}" for kind in dict.fromkeys(kinds)))
    print("anchors, leave one out: " + ", ".join(f"{name} {value:.3f}" for name, value in separations.items()))
    print("AUROC, first kind riskier than second (columns of lower risk are negated)")
    for number, (one, other) in enumerate(pairs, start=1):
        print(f"  ({number}) {one} > {other}")
    print(" " * 30 + "".join(f"{f'({number})':>8}" for number in range(1, len(pairs) + 1)))
    for column in COLUMNS:
        if scores[column].null_count == scores.num_rows:
            continue
        values = scores[column].to_numpy() * (-1.0 if column.endswith("_safe") else 1.0)
        cells = []
        for one, other in pairs:
            groups = [values[(kinds == kind) & np.isfinite(values)] for kind in (one, other)]
            cells.append(f"{auroc(*groups):8.3f}" if all(len(group) for group in groups) else "       –")
        print(f"{column:<30}" + "".join(cells))


if __name__ == "__main__":
    main()
