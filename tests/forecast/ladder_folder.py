"""Finished experiments without any training: real scans' rows, answers drawn by the rows' mean score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from ripcurrent.finetune import load_recipe
from ripcurrent.runs import read_manifest, write_json
from ripcurrent.select_old import read_scores
from ripcurrent.select_old._table import ScoredRows
from tests.experiment.answers import write_evaluation
from tests.report.fabricate import fabricate_run

SLOPE = 20.0
"""Logits per unit of the mean score."""
ASKED = 100


def fabricate_scan(folder: Path, *, rows: int = 240, seed: int = 7, **model: Any) -> Path:
    """A finished scan of made-up rows, with all that says what scores rest on."""
    fabricate_run(folder, rows=rows, seed=seed)
    manifest = read_manifest(folder)
    manifest["model"] |= {"template_sha256": "7e" * 32, "tokenizer_sha256": "70" * 32, **model}
    write_json(folder / "manifest.json", manifest)
    return folder


class ScanRows:
    """The rows of a finished scan, to make arms of."""

    def __init__(self, scan: Path) -> None:
        scored = ScoredRows(read_scores(scan))
        self.scan = scan
        usable = scored.rows[scored.ok]
        values = scored.scores(scored.default_ranking)[scored.ok]
        self.riskiest_first: list[int] = usable[np.argsort(-values)].tolist()
        self._score = dict(zip(usable.tolist(), values.tolist(), strict=True))
        self._middle = float(values.mean())
        self.ids: dict[int, str] = dict(zip(usable.tolist(), scored.ids(usable.tolist()), strict=True))

    def mean(self, rows: Sequence[int]) -> float:
        """Mean default score."""
        return float(np.mean([self._score[row] for row in rows]))

    def share(self, rows: Sequence[int], slope: float = SLOPE) -> float:
        """The share that a run on these rows answers."""
        return float(expit(-0.4 + slope * (self.mean(rows) - self._middle)))

    def arms(self, sizes: Sequence[int] = (20, 40)) -> dict[str, list[int]]:
        """Top, bottom, random and two mixtures of each size."""
        order, found = self.riskiest_first, {}
        for size in sizes:
            random = np.random.default_rng(size).permutation(order).tolist()
            half = size // 2
            found |= {
                f"top-{size}": order[:size],
                f"bottom-{size}": order[-size:],
                f"random-{size}": random[:size],
                f"upper-{size}": order[:half] + [row for row in random if row not in order[:half]][: size - half],
                f"lower-{size}": order[-half:] + [row for row in random if row not in order[-half:]][: size - half],
            }
        return found


def row_hash(rows: ScanRows, row: int) -> str:
    """A row's hash: that of its dataset and number, which stand for its text."""
    return hashlib.sha256(f"{rows.scan} {row}".encode()).hexdigest()


def fabricate_ladder(
    folder: Path,
    rows: ScanRows,
    arms: Mapping[str, Sequence[int]],
    *,
    seeds: int = 1,
    name: str = "ladder",
    share: Callable[[Sequence[int]], float] | None = None,
    recipe: str = "embedded",
    config: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
    further: int = 0,
) -> Path:
    """An experiment's folder whose arms trained on rows of one scan; ``further`` requests are answered by none."""
    folder.mkdir(parents=True)
    manifest = read_manifest(rows.scan)
    keys = {"name": name, "run": str(rows.scan), "scans": {}, "system": None, "max_new_tokens": 48}
    keys |= {"prompts": [{"source": "asked.jsonl"}], **(config or {})}
    write_json(folder / "experiment.json", keys)
    prompts = [
        {"id": f"{axis}-{n}", "prompt": f"{axis} {n}", "axis": axis, "category": "fraud", "source": "asked.jsonl"}
        for axis, count in (("harmful", ASKED + further), ("plain", 5))
        for n in range(count)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in prompts), encoding="utf-8")
    chosen = load_recipe(recipe)
    for arm, indices in arms.items():
        for seed in range(seeds):
            place = folder / "arms" / f"{arm}-seed{seed}"
            answered = round(ASKED * (share or rows.share)(indices))

            def says(judge: str, prompt_id: str, answered: int = answered) -> str:
                del judge
                axis, _, number = prompt_id.partition("-")
                return "compliance" if axis == "harmful" and int(number) < answered else "refusal"

            write_evaluation(place / "evaluation", prompts, ("prefix",), says)
            rule = {"select": "top"}
            write_json(place / "arm.json", {"arm": arm, "seed": seed, "status": "finished", "identity": {"rule": rule}})
            write_json(place / "rows" / f"{arm}.json", {"indices": sorted(indices)})
            write_json(
                place / "finetune" / "manifest.json",
                {
                    "model": {
                        "fingerprint": fingerprint or manifest["model"]["fingerprint"],
                        "template_sha256": manifest["model"]["template_sha256"],
                    },
                    "rows": {
                        "trained": len(indices),
                        "tokens_sha256": hashlib.sha256(json.dumps(sorted(indices)).encode()).hexdigest(),
                    },
                    "training": {"steps": chosen.total_steps(len(indices))},
                    "recipe": chosen.model_dump(mode="json"),
                    "options": {"max_tokens": 1024, "loss_on": "all"},
                    "seeds": {"seed": seed},
                },
            )
            lines = [{"id": rows.ids[row], "sha256": row_hash(rows, row), "trained": True} for row in indices]
            (place / "finetune" / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder
