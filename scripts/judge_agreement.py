"""Measure the judges by rule on people's labels and write the figures that pages show beside a judge's name.

    RIPCURRENT_DATA=FOLDER python scripts/judge_agreement.py

To be run again whenever a judge's version changes; a test holds the figures to docs/evaluate.md.
"""

import json
import os
from pathlib import Path

from ripcurrent.evaluate import validate_judges

TARGET = Path(__file__).parents[1] / "src" / "ripcurrent" / "evaluate" / "judge_agreement.json"
FILES = {"xstest_gpt4.csv": "GPT-4’s", "xstest_llama2new.csv": "Llama 2’s"}
ROLES = {("prefix", "xstest_gpt4.csv"): "held out", ("prefix", "xstest_llama2new.csv"): "tuned on these"}
"""Of which answers a judge's rules were written with a view to; neither of the keyword list."""


def main() -> None:
    folder = Path(os.environ["RIPCURRENT_DATA"]) / "judges"
    entries = [
        {
            "judge": one.judge,
            "version": one.version,
            "answers": answers,
            "role": ROLES.get((one.judge, name)),
            "n": (found := one.files[str(folder / name)]).n,
            "accuracy": round(found.accuracy, 4),
            "kappa": round(found.kappa, 4),
            "low": round(found.kappa_low, 4),
            "high": round(found.kappa_high, 4),
        }
        for one in validate_judges([folder / name for name in FILES])
        for name, answers in FILES.items()
    ]
    TARGET.write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(entries)} figures in {TARGET}")


if __name__ == "__main__":
    main()
