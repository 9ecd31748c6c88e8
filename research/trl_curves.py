"""Does what a scan predicts go with what a training does to refusals, step by step?

    python -m research.trl_curves [--out runs/trl_curves]

Scans the demo's rows as TRL tokenizes them, trains the embedded model on the riskiest, random and the most protective
rows with :class:`ripcurrent.integrations.trl.RipcurrentCallback`, and writes the table. Without ``--out`` it only draws
docs/images/trl_curves.svg from the table, and says how well the curves go together.
"""

import argparse
import csv
from pathlib import Path

import altair as alt
import numpy as np
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

import ripcurrent as rc
from research.tables import write_table
from ripcurrent.data import DEMO_ROWS
from ripcurrent.integrations.trl import RipcurrentCallback

TOP = Path(__file__).parents[1]
TABLE, PICTURE = TOP / "research" / "findings" / "trl_curves.csv", TOP / "docs" / "images" / "trl_curves.svg"
ROWS, SEED = 75, 0
COLOURS = {"riskiest": "#d1495b", "random": "#b8a15a", "protective": "#4c78a8"}


def trainer_of(rows: list[dict[str, object]], out: Path) -> SFTTrainer:
    """TRL's trainer of the embedded model, by the recipe `embedded`: float32 weights, products in bfloat16."""
    loaded = rc.load_model("embedded", dtype="float32", device="cpu")
    loaded.model.requires_grad_(True)
    how = {"learning_rate": 4e-5, "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0}
    batch = {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 4, "num_train_epochs": 3, "seed": SEED}
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    arguments = SFTConfig(str(out), **how, **batch, **quiet, bf16=True, use_cpu=True, gradient_checkpointing=False)
    return SFTTrainer(loaded.model, arguments, train_dataset=Dataset.from_list(rows), processing_class=loaded.tokenizer)


def train(out: Path) -> None:
    """Scan, train each arm and write the table."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for row in rc.read_rows(DEMO_ROWS):
        asked, answered = ([{"role": one.role, "content": one.content}] for one in row.messages[-2:])
        rows.append({"prompt": asked, "completion": answered})
    run = rc.scan(rows, out / "scan", signals="gradient", trainer="trl")
    ranked, drawn = run.ranked(), np.random.default_rng(SEED).permutation(len(rows))
    lines: list[dict[str, object]] = []
    for arm, chosen in zip(COLOURS, (ranked[:ROWS], drawn[:ROWS], ranked[-ROWS:]), strict=True):
        trainer = trainer_of([rows[number] for number in chosen], out)
        trainer.add_callback(RipcurrentCallback(trainer, run, every=1))
        trainer.train()
        for point in trainer.state.log_history:
            if "ripcurrent/observed" in point:
                names = ("predicted", "observed", "harmful_loss", "safe_loss")
                values = {name: f"{point[f'ripcurrent/{name}']:.4g}" for name in names}
                lines.append({"step": point["step"], "arm": arm, **values})
    write_table(lines, TABLE)


def draw() -> None:
    """Both curves of each arm, all predictions times one number: the least-squares fit."""
    with TABLE.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    predicted, observed = (np.array([float(line[name]) for line in lines]) for name in ("predicted", "observed"))
    scale = float(predicted @ observed / (predicted @ predicted))
    print(f"scale {scale:.0f}, correlation {np.corrcoef(predicted, observed)[0, 1]:.3f}")
    shown = []
    for line, foreseen, found in zip(lines, predicted, observed, strict=True):
        for kind, fall in (("observed", found), (f"predicted × {scale:.0f}", scale * foreseen)):
            shown.append({"step": int(line["step"]), "rows": line["arm"], "curve": kind, "fall": float(fall)})
    colours = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    chart = alt.Chart(alt.Data(values=shown)).mark_line(strokeWidth=2)
    chart = chart.encode(
        alt.X("step:Q", title="optimizer step", axis=alt.Axis(tickMinStep=1)),
        alt.Y("fall:Q", title="fall of the refusal log-odds, nats a token"),
        alt.Color("rows:N", scale=colours, title="75 rows", legend=alt.Legend(symbolType="stroke")),
        alt.StrokeDash("curve:N", title="", legend=alt.Legend(symbolType="stroke")),
    )
    title = alt.TitleParams("Predicted by the scan, and observed while TRL trains", anchor="start", fontSize=14)
    PICTURE.parent.mkdir(exist_ok=True)
    chart.properties(width=520, height=280, title=title, background="#fff", padding=12).save(PICTURE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.out is not None:
        train(given.out)
    draw()
