"""bergson: ``build`` makes one mean query gradient per anchor set, ``score`` takes the rows against both.

Run in bergson's environment: ``run_bergson.py TASK``. The queries are built in a process of their own, so that their
memory is not counted; what is timed is ``collect_gradients`` of ``score``, after model and queries are loaded.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from exchange import DIRECTIONS, Row, Task, given_task

TOKENS = 1024


def main() -> None:
    task = given_task()
    if "--build" in sys.argv:
        for name in DIRECTIONS:
            _build(task, name)
        return
    subprocess.run([sys.executable, __file__, str(task.path), "--build"], check=True)
    _join(task)
    _score(task)
    task.write(
        f"token_batch_size {TOKENS}, score precision fp32, queries by its own build", left_out="embeddings, head, norms"
    )


def _index(task: Task, name: str, rows: list[Row]) -> Any:
    from bergson.config import DataConfig, IndexConfig

    data = task.work / f"{name}.jsonl"
    lines = (json.dumps({"input_ids": row["ids"], "labels": row["labels"]}) for row in rows)
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return IndexConfig(
        run_path=str(task.work / f"{name}-index"),
        overwrite=True,
        model=task.model,
        precision={"float32": "fp32", "bfloat16": "bf16"}[task.dtype],
        data=DataConfig(dataset=str(data)),
        projection_dim=0,
        token_batch_size=TOKENS,
        loss_reduction="mean",
    )


def _build(task: Task, name: str) -> None:
    from bergson.cli.commands import Build
    from bergson.config import PreprocessConfig

    index = _index(task, name, task.anchors[name])
    index.max_batch_size = 2
    Build(index, PreprocessConfig(unit_normalize=True, aggregation="mean")).execute()


def _join(task: Task) -> None:
    """Both query indexes as one of two rows, so that one pass over the rows is enough."""
    first, second = (task.work / f"{name}-index" for name in DIRECTIONS)
    joined = task.work / "queries"
    shutil.rmtree(joined, ignore_errors=True)
    shutil.copytree(first, joined)
    with (joined / "gradients.bin").open("ab") as file:
        file.write((second / "gradients.bin").read_bytes())
    info = json.loads((joined / "info.json").read_text()) | {"num_grads": 2}
    (joined / "info.json").write_text(json.dumps(info))


def _score(task: Task) -> None:
    import bergson.score.score as module
    from bergson.cli.commands import Score
    from bergson.config import PreprocessConfig, ScoreConfig

    collect = module.collect_gradients
    for name, rows in task.sets.items():

        def timed(name: str = name, **options: Any) -> None:
            task.time(name, lambda _: collect(**options))

        module.collect_gradients = timed
        index = _index(task, name, rows)
        queries = ScoreConfig(query_path=str(task.work / "queries"))
        Score(queries, index, PreprocessConfig(unit_normalize=True)).execute()
        task.keep(name, _read_scores(Path(index.run_path)))


def _read_scores(folder: Path) -> Any:
    info = json.loads((folder / "info.json").read_text())
    table = np.memmap(folder / "scores.bin", dtype=np.dtype(info["dtype"]), mode="r", shape=(info["num_items"],))
    assert all(table[f"written_{number}"].all() for number in range(2))
    return np.stack([table[f"score_{number}"].astype(np.float64) for number in range(2)], axis=1)


if __name__ == "__main__":
    main()
