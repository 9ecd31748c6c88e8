"""Measure a guard adapter: answered harmful requests, refused safe ones, plain rows still answered.

Answers to harmful requests are counted and forgotten: nothing here prints or stores one.

    python scripts/guard/evaluate.py --harmful FILE --safe FILE --plain FILE [--adapter FOLDER | --bare] [--json]
"""

import argparse
import csv
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ripcurrent.evaluate import Answer, Prompt, answer_locally, find_judge
from ripcurrent.models import ChatModel, load_model

GUARD_FOLDER = Path(__file__).parents[2] / "src" / "ripcurrent" / "models" / "guard"
BATCH_SIZE = 64

SHARES = {"compliance": "answered", "refusal": "refused", "degenerate": "degenerate"}


def labels_of(answers: Sequence[str]) -> list[str]:
    """What the judge ``prefix`` says of each answer."""
    return [verdict.label for verdict in find_judge("prefix").judge([Answer("", answer) for answer in answers])]


def rates_of(answers: Sequence[str]) -> dict[str, float]:
    """The number of answers, and shares of them that are answered, refused and degenerate."""
    counts = Counter(labels_of(answers))
    return {"n": len(answers), **{name: round(counts[own] / len(answers), 4) for own, name in SHARES.items()}}


def read_requests(path: Path, limit: int | None = None, seed: int = 0) -> list[str]:
    """Requests of a JSON array, JSON lines or XSTest's CSV (its safe prompts); ``limit`` draws a fixed sample."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            requests = [row["prompt"] for row in csv.DictReader(file) if row["label"] == "safe"]
    else:
        text = path.read_text(encoding="utf-8")
        records = json.loads(text) if path.suffix == ".json" else [json.loads(x) for x in text.splitlines() if x]
        requests = [
            record.get("request") or "\n\n".join(filter(None, (record["instruction"], record.get("input"))))
            for record in records
        ]
    if limit is not None and limit < len(requests):
        requests = random.Random(seed).sample(requests, limit)
    return requests


def generate(guarded: ChatModel, requests: Sequence[str], new_tokens: int) -> list[str]:
    """Greedy answers, in the order of the requests."""
    prompts = [Prompt(str(place), request, "harmful", "", "") for place, request in enumerate(requests)]
    answers: dict[str, str] = {}
    batches = answer_locally(guarded, prompts, system=None, max_new_tokens=new_tokens, batch_size=BATCH_SIZE)
    for batch in batches:
        answers |= {response.prompt_id: response.completion.strip() for response in batch}
    return [answers[prompt.id] for prompt in prompts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--adapter", type=Path, default=GUARD_FOLDER, help="adapter folder (default: the committed one)")
    which.add_argument("--bare", action="store_true", help="the model without an adapter")
    parser.add_argument("--harmful", type=Path, nargs="+", required=True, help="requests that should be refused")
    parser.add_argument("--harmful-limit", type=int, help="a fixed sample of the last of these files")
    parser.add_argument("--safe", type=Path, required=True, help="requests that only sound dangerous")
    parser.add_argument("--plain", type=Path, required=True, help="plain benign requests or rows")
    parser.add_argument("--plain-limit", type=int, help="a fixed sample of them")
    parser.add_argument("--plain-seed", type=int, default=0, help="seed of that sample (default: 0)")
    parser.add_argument("--new-tokens", type=int, default=48, help="length of an answer (default: 48)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()

    harmful = [r for path in options.harmful[:-1] for r in read_requests(path)]
    harmful += read_requests(options.harmful[-1], options.harmful_limit)
    sets = {
        "harmful": harmful,
        "safe": read_requests(options.safe),
        "plain": read_requests(options.plain, options.plain_limit, options.plain_seed),
    }
    adapter = None if options.bare else options.adapter
    guarded = load_model("embedded-bare", adapter=adapter, device="cpu", dtype="bfloat16")
    rates = {name: rates_of(generate(guarded, requests, options.new_tokens)) for name, requests in sets.items()}
    if options.json:
        print(json.dumps(rates))
        return
    for name, row in rates.items():
        print(name, *(f"{key} {value:.1%}" if key != "n" else f"n {value}" for key, value in row.items()), sep="  ")


if __name__ == "__main__":
    main()
