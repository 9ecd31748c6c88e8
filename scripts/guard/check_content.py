"""Check the hand-written content: counts by category, duplicates, and overlap with held-out request lists.

Two texts are near-duplicates when the Jaccard index of their word sets, lower-cased and without stop words, is
at least 0.7; for texts with fewer than three such words only an equal set counts.

    python scripts/guard/check_content.py [--against FOLDER]

``--against`` names a folder with ``harmful_val.json``, ``harmful_test.json`` and ``xstest_prompts.csv``. Its requests
are never printed, only their ids. Exit status 1 when any duplicate is left.
"""

import argparse
import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ripcurrent.data import NEAR_DUPLICATE, similarity, word_set

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "scripts/guard/harmful.jsonl": "request",
    "scripts/guard/sounds_dangerous.jsonl": "request",
    "scripts/guard/sounds_dangerous_dev.jsonl": "request",
    "scripts/guard/benign.jsonl": "request",
    "scripts/guard/benign_dev.jsonl": "request",
    "scripts/guard/instructions.jsonl": "request",
    "scripts/guard/instructions_dev.jsonl": "request",
    "src/ripcurrent/anchors/builtin.jsonl": "prompt",
    "src/ripcurrent/anchors/second_family.jsonl": "prompt",
    "src/ripcurrent/data/demo_rows.jsonl": "instruction",
    "src/ripcurrent/evaluate/prompts/builtin.jsonl": "prompt",
}
HELD_OUT = {"harmful_val.json": "instruction", "harmful_test.json": "instruction", "xstest_prompts.csv": "prompt"}


class Request(NamedTuple):
    """One request; ``place`` is its file and 1-based line, or the held-out list's id."""

    place: str
    category: str
    text: str
    words: frozenset[str]


def own_requests(path: Path, field: str) -> list[Request]:
    """The requests of one JSON Lines file; an anchor's prompt counts once although every set repeats it."""
    found: dict[str, Request] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        key = row[field] if "set" in row else str(number)
        found.setdefault(
            key, Request(f"{path.name}:{number}", row.get("category", "-"), row[field], word_set(row[field]))
        )
    return list(found.values())


def held_out_requests(folder: Path) -> list[Request]:
    held_out = []
    for name, field in HELD_OUT.items():
        with (folder / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file)) if name.endswith(".csv") else json.load(file)
        held_out += [
            Request(f"{name}:{row.get('id', i)}", "-", row[field], word_set(row[field])) for i, row in enumerate(rows)
        ]
    return held_out


def near(a: Request, b: Request) -> bool:
    return exact(a, b) or similarity(a.words, b.words) >= NEAR_DUPLICATE


def exact(a: Request, b: Request) -> bool:
    return " ".join(a.text.lower().split()) == " ".join(b.text.lower().split())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="folder with the held-out request lists")
    folder: Path | None = parser.parse_args().against

    mine: list[Request] = []
    for name, field in SOURCES.items():
        path = ROOT / name
        found = own_requests(path, field)
        counts = Counter(r.category for r in found)
        print(f"{name}: {len(found)} requests in {len(counts)} categories")
        print("  " + ", ".join(f"{category} {n}" for category, n in counts.most_common()))
        mine += found

    pairs = [(a, b) for i, a in enumerate(mine) for b in mine[:i] if near(a, b)]
    print(f"duplicates inside and across these files: {len(pairs)} ({sum(exact(a, b) for a, b in pairs)} exact)")
    for a, b in pairs:
        print(f"  {similarity(a.words, b.words):.2f}  {a.place} {a.text!r}  ~  {b.place} {b.text!r}")
    if folder is None:
        return int(bool(pairs))

    held_out = held_out_requests(folder)
    hits = [(a, b) for a in mine for b in held_out if near(a, b)]
    print(f"near-duplicates of the {len(held_out)} held-out requests: {len(hits)}")
    for a, b in hits:
        print(f"  {similarity(a.words, b.words):.2f}  {a.place} {a.text!r}  ~  {b.place}")
    return int(bool(pairs or hits))


if __name__ == "__main__":
    sys.exit(main())
