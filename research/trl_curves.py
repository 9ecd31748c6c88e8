"""Does what a scan predicts go with what a training does to refusals, step by step?

    python -m research.trl_curves --out runs/trl_curves

Scans the demo's rows as TRL tokenizes them, trains the embedded model on the riskiest, the most protective and random
rows with :class:`ripcurrent.integrations.trl.RipcurrentCallback`, and draws both curves of each training.
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

import ripcurrent as rc
from research.tables import write_table
from ripcurrent.data import DEMO_ROWS
from ripcurrent.integrations.trl import RipcurrentCallback

TOP = Path(__file__).parents[1]
ROWS, SEED = 75, 0


def trainer_of(rows: list[dict[str, object]], out: Path, **options: object) -> SFTTrainer:
    """TRL's trainer of the embedded model, by the recipe `embedded`: float32 weights, products in bfloat16."""
    loaded = rc.load_model("embedded", dtype="float32", device="cpu")
    loaded.model.requires_grad_(True)
    chosen = {"learning_rate": 4e-5, "lr_scheduler_type": "constant", "weight_decay": 0.0, "seed": SEED, **options}
    batch = {
        "per_device_train_batch_size": 5,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 3,
        "max_grad_norm": 1.0,
    }
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    types = {"bf16": True, "use_cpu": True, "gradient_checkpointing": False}
    arguments = SFTConfig(str(out), **chosen, **batch, **quiet, **types)
    return SFTTrainer(loaded.model, arguments, train_dataset=Dataset.from_list(rows), processing_class=loaded.tokenizer)


def curve(rows: list[dict[str, object]], run: rc.ScanRun, out: Path) -> list[dict[str, float]]:
    trainer = trainer_of(rows, out)
    trainer.add_callback(RipcurrentCallback(trainer, run, every=1))
    trainer.train()
    return [point for point in trainer.state.log_history if "ripcurrent/observed" in point]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in rc.read_rows(DEMO_ROWS):
        asked, answered = ([{"role": one.role, "content": one.content}] for one in row.messages[-2:])
        rows.append({"prompt": asked, "completion": answered})
    run = rc.scan(rows, out / "scan", signals="gradient", trainer="trl")
    ranked = run.ranked()
    drawn = np.random.default_rng(SEED).permutation(len(rows))
    lines: list[dict[str, object]] = []
    for arm, chosen in (("riskiest", ranked[:ROWS]), ("random", drawn[:ROWS]), ("protective", ranked[-ROWS:])):
        for point in curve([rows[number] for number in chosen], run, out):
            measured = {name.partition("/")[2]: value for name, value in point.items() if "/" in name}
            lines.append({"step": point["step"], "arm": arm, **measured})
            print(lines[-1], flush=True)
    write_table(lines, TOP / "research" / "findings" / "trl_curves.csv")


if __name__ == "__main__":
    main()
