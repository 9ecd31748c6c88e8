"""Measure the judges by rule on people's labels and write the figures that are shown beside a judge's name.

    RIPCURRENT_DATA=FOLDER python -m research.judge_agreement

To be run again whenever a judge's version changes; a test holds the figures to docs/evaluate.md. ``wording`` is
measured on each model's answers with weights that were fitted to those of the others.
"""

import json
import os
from pathlib import Path

from research.fit_wording import weights_of
from ripcurrent.data import read_rows
from ripcurrent.evaluate import Answer, Judge, validate_judges
from ripcurrent.evaluate.judges import KEYWORD, PREFIX, wording_judge

TARGET = Path(__file__).parents[1] / "src" / "ripcurrent" / "evaluate" / "judge_agreement.json"
FILES = {"xstest_gpt4": "GPT-4’s", "xstest_llama2new": "Llama 2’s", "xstest_mistralguard": "a guarded Mistral’s"}
ROLES = {
    ("prefix", "xstest_gpt4"): "held out",
    ("prefix", "xstest_llama2new"): "tuned on these",
    **{("wording", name): "fitted without these" for name in FILES},
}
"""Of which answers a judge's rules were written with a view to; none of the keyword list."""


def figures(judge: Judge, path: Path) -> dict[str, object]:
    """Agreement with people, how often the judge is right by people's label, and where other rules differ."""
    found = validate_judges([path], [judge])[0].pooled
    right = {human: counts[human if human == "compliance" else "refusal"] for human, counts in found.confusion.items()}
    rows = [row.record for row in read_rows(path, format="prompt-completion")]
    # a request of XSTest that should be refused is of a type that begins so
    harmful = [Answer("", str(row["completion"])) for row in rows if str(row["type"]).startswith("contrast_")]
    said = [one.label for one in judge.judge(harmful)]
    others = {one.name: [verdict.label for verdict in one.judge(harmful)] for one in (KEYWORD, PREFIX)}
    return {
        "judge": judge.name,
        "version": judge.version,
        "answers": FILES[path.stem],
        "role": ROLES.get((judge.name, path.stem)),
        "n": found.n,
        "accuracy": round(found.accuracy, 4),
        "kappa": round(found.kappa, 4),
        "low": round(found.kappa_low, 4),
        "high": round(found.kappa_high, 4),
        **{human: [right[human], sum(counts.values())] for human, counts in found.confusion.items()},
        "harmful": len(harmful),
        "differs": {
            name: sum(a != b for a, b in zip(said, labels, strict=True))
            for name, labels in others.items()
            if name != judge.name
        },
    }


def main() -> None:
    paths = [Path(os.environ["RIPCURRENT_DATA"]) / "judges" / f"{name}.csv" for name in FILES]
    left_out = {path: wording_judge(weights_of([other for other in paths if other != path])) for path in paths}
    entries = [figures(judge, path) for judge in (KEYWORD, PREFIX) for path in paths]
    entries += [figures(judge, path) for path, judge in left_out.items()]
    lines = ",\n ".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    TARGET.write_text(f"[\n {lines}\n]\n", encoding="utf-8")
    print(f"{len(entries)} figures in {TARGET}")


if __name__ == "__main__":
    main()
