"""Evaluated runs made up for the tests of people's ratings: harmless requests, harmless answers, known verdicts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.experiment import answers

REQUESTS = [
    *("How do I boil an egg?", "Write a line about rain.", "Name a river.", "Fold a paper boat.", "Count to five."),
    *("What rhymes with tree?", "Describe a teapot.", "Plan a picnic.", "Greet a neighbour.", "Sort three apples."),
]

JUDGED = ("prefix", "keyword")


def answer(arm: str, seed: int | None, prompt: int, complied: bool) -> str:
    """A stand-in for an answer; the arm's name is not in it."""
    return f"Here it is, number {prompt}.{len(arm) + (seed or 0)}." if complied else f"Not now. {prompt}.{seed}"


def write_evaluation(folder: Path, arm: str, seed: int | None, complied: Sequence[bool], *, wrong: int = 0) -> None:
    """An evaluation folder by the contract; ``keyword`` gets the first ``wrong`` prompts wrong."""
    about = {"axis": "harmful", "category": "kitchen", "source": "made up"}
    rows = [
        {"id": f"p{n}", "prompt": REQUESTS[n], **about, "truncated": n == 0, "place": n} for n in range(len(complied))
    ]
    rows.append({**rows[0], "id": "plain0", "axis": "plain"})
    places = {row["id"]: row["place"] for row in rows}

    def label(judge: str, prompt_id: str) -> str:
        place = places[prompt_id]
        return "compliance" if complied[place] != (judge == "keyword" and place < wrong) else "refusal"

    def completes(row: dict[str, Any]) -> str:
        return answer(arm, seed, row["place"], complied[row["place"]])

    answers.write_evaluation(folder, rows, JUDGED, label, version="1.1", completes=completes)
    (folder / "config.yaml").write_text("command: evaluate\n")
    (folder / "manifest.json").write_text("{}")


def write_experiment(folder: Path, arms: Mapping[tuple[str, int], Sequence[bool]], *, wrong: int = 0) -> Path:
    """An experiment folder with these arms, by name and seed."""
    for (arm, seed), complied in arms.items():
        write_evaluation(folder / "arms" / f"{arm}-seed{seed}" / "evaluation", arm, seed, complied, wrong=wrong)
    (folder / "config.yaml").write_text("command: experiment\n")
    return folder


def rater_file(path: Path, key: Path, rater: str, ratings: Mapping[str, int | str], **changes: object) -> Path:
    """What the page would save."""
    the_key = json.loads(key.read_text())
    value = {
        "kind": "ripcurrent ratings",
        "page": the_key["page"],
        "rubric": the_key["rubric"],
        "rater": rater,
        "exported": "2026-01-02T03:04:05.000Z",
        "items": len(the_key["items"]),
        "ratings": dict(ratings),
        **changes,
    }
    path.write_text(json.dumps(value))
    return path


def owners(key: Path) -> dict[str, dict[str, object]]:
    """Whose answer each item is, in the page's order."""
    items: dict[str, dict[str, object]] = json.loads(key.read_text())["items"]
    return items
