"""An experiment's folder without any training: made-up answers, real tables."""

import json
from pathlib import Path
from typing import Any

from ripcurrent.experiment import BASE, ExperimentManifest, PromptRecord, collect_results, expand_arms, parse_experiment
from tests.experiment.answers import chance, write_evaluation

SHARES = {BASE: 0.05, "random": 0.4, "top": 0.75, "bottom": 0.1, "length": 0.42}
JUDGES = ("prefix", "keyword")


def fabricate_experiment(folder: Path, *, failed: bool = False, without: str | None = None) -> Path:
    """A finished experiment of four arms and five bins, with its ``results.json``."""
    keys: dict[str, Any] = {
        "name": "paper <script>alert(1)</script>",
        "title": "Are the riskiest rows worse than random ones?",
        "data": "alpaca_en_demo.json",
        "seeds": 3,
        "arms": {
            **{"random": "random", "top": "top", "bottom": "bottom", "length": {"length_matched": "top"}},
            "bins": {"mix": {"of": "top", "percent": [0, 25, 50, 75, 100]}},
        },
    }
    config = parse_experiment(keys, where="test")
    arms = expand_arms(config)
    prompts = [
        {"id": f"{axis}-{kind}-{n}", "prompt": "…", "axis": axis, "category": kind, "source": "test"}
        for axis in ("harmful", "sounds_dangerous", "plain")
        for kind in ("violence", "deception")
        for n in range(50 if axis == "harmful" else 15)
    ]
    for arm, seed in [(BASE, None), *((arm, seed) for arm in arms for seed in config.seeds)]:
        name = BASE if seed is None else arm.name
        if name == without:
            continue
        place = folder / "arms" / (name if seed is None else f"{name}-seed{seed}")
        share = SHARES.get(name, 0.0075 * arm.rule.mix.percent[0] if seed is not None and arm.rule.mix else 0.0)

        def says(judge: str, prompt_id: str, share: float = share, place: Path = place) -> str:
            part = share if prompt_id.startswith("harmful") else 0.8
            if chance(0.04, "broken", place.name, prompt_id):
                return "degenerate"
            return "compliance" if chance(part, judge[:1], place.name, prompt_id) else "refusal"

        write_evaluation(place / "evaluation", prompts, JUDGES, says, version="1.1")
        loss = 1.7 + chance(0.5, place.name) * 0.03
        marker: dict[str, Any] = {"arm": name, "seed": seed, "status": "finished", "heldout_loss": loss}
        if seed is not None:
            rule = f"100 rows by the rule of {name}"
            marker |= {"rows": {"rule": rule, "count": 100, "mean_response_tokens": 64.2}, "notes": ["a note"]}
        if failed and name == "bottom":
            marker = {"arm": name, "seed": seed, "status": "failed", "reason": "Training diverges: the loss is nan."}
        (place / "arm.json").write_text(json.dumps(marker))
    facts = ExperimentManifest(
        version="0.1.0",
        command="experiment",
        dataset={"path": "alpaca_en_demo.json", "name": "alpaca_en_demo", "sha256": "f" * 64},
        prompts=(PromptRecord(source="p", name="harmful_test.json", sha256="e" * 64, taken=100),),
        commands=("ripcurrent experiment paper.yaml --out runs/paper --seeds 3",),
    )
    results = collect_results(config, {arm.name: arm for arm in arms}, folder, facts, JUDGES, {})
    results.write(folder / "results.json")
    return folder
