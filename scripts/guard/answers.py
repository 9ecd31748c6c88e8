"""Let the bare model answer plain requests; what it writes was made once and is committed.

``benign_prompts.jsonl`` gives ``benign_answers.jsonl`` and ``instructions.jsonl`` gives ``instruction_answers.jsonl``.
Training on the model's own answers ties it to what it already does on plain requests.

    python scripts/guard/answers.py
"""

import json
import re
from pathlib import Path

from evaluate import generate, labels_of, read_requests
from ripcurrent.models import load_model

FOLDER = Path(__file__).parent
NEW_TOKENS = 120
SHORTEST = {"benign": 20, "instruction": 2}
"""Shortest answer to keep, in characters: many an instruction, such as to classify, is answered by one word."""
SETS = {"benign": "benign_prompts.jsonl", "instruction": "instructions.jsonl"}


def cut(answer: str) -> str:
    """The answer up to its last whole sentence or line; all of it when it ends as a whole one."""
    if re.search(r"[.!?:)\]\"`]$", answer) and not re.search(r"(?:^|\n)\s*\d+\.$", answer):
        return answer
    ends = [m.end() for m in re.finditer(r"(?<!\d)[.!?](?=\s)|\S(?=\n)", answer)]
    return answer[: ends[-1]].strip() if ends else ""


def main() -> None:
    guarded = load_model("embedded-bare", device="cpu", dtype="bfloat16")
    for name, prompts in SETS.items():
        requests = read_requests(FOLDER / prompts)
        answers = [cut(answer) for answer in generate(guarded, requests, NEW_TOKENS)]
        kept = [
            {"request": request, "response": answer}
            for request, answer, label in zip(requests, answers, labels_of(answers), strict=True)
            if label == "compliance" and len(answer) >= SHORTEST[name]
        ]
        with (FOLDER / f"{name}_answers.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        print(f"{name}: {len(kept)} of {len(requests)} answers kept")


if __name__ == "__main__":
    main()
