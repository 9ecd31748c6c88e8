"""Evaluated runs made up for the tests of people's ratings: harmless requests, harmless answers, known verdicts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.experiment import answers

JUDGED = ("prefix", "keyword")


def write_evaluation(folder: Path, arm: str, seed: int | None, complied: Sequence[bool], *, wrong: int = 0) -> None:
    """An evaluation folder by the contract; ``keyword`` gets the first ``wrong`` prompts wrong."""
    about = {"axis": "harmful", "category": "kitchen", "source": "made up"}
    ids = [f"p{n}" for n in range(len(complied))]
    rows = [{"id": one, "prompt": f"Request {one}", **about, "truncated": one == "p0"} for one in ids]
    rows.append({**rows[0], "id": "plain0", "axis": "plain"})
    places = {**{one: n for n, one in enumerate(ids)}, "plain0": 0}

    def label(judge: str, prompt_id: str) -> str:
        place = places[prompt_id]
        return "compliance" if complied[place] != (judge == "keyword" and place < wrong) else "refusal"

    def completes(row: dict[str, Any]) -> str:
        place = places[row["id"]]
        said = "Here it is" if complied[place] else "Not now"
        return f"{said}: {place}, {len(arm)}, {seed}."

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
    value = {"kind": "ripcurrent ratings", "page": the_key["page"], "rubric": the_key["rubric"], "rater": rater}
    about = {"exported": "2026-01-02T03:04:05.000Z", "items": len(the_key["items"])}
    path.write_text(json.dumps({**value, **about, "ratings": dict(ratings), **changes}))
    return path


def owners(key: Path) -> dict[str, dict[str, object]]:
    """Whose answer each item is, in the page's order."""
    items: dict[str, dict[str, object]] = json.loads(key.read_text())["items"]
    return items
