"""kronfluence: pairwise scores with identity factors, that is plain dot products; it has no cosine.

Run in kronfluence's environment: ``run_kronfluence.py TASK``. A query's gradient is read from hooks, layer by layer.
Each layer called on the identity matrix, with a direction as its output gradient, gives that direction.
"""

from __future__ import annotations

from typing import Any

import torch
from exchange import batch_loss, collate, given_task, load_causal_model
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.score import pairwise
from kronfluence.task import Task as KronfluenceTask
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor


class Scoring(KronfluenceTask):  # type: ignore[misc]
    """Rows' losses against two directions."""

    def __init__(self, directions: dict[str, Tensor]) -> None:
        self.directions = {name.removesuffix(".weight"): stacked for name, stacked in directions.items()}

    def get_influence_tracked_modules(self) -> list[str]:
        return list(self.directions)

    def compute_train_loss(self, batch: dict[str, Tensor], model: Any, sample: bool = False) -> Tensor:
        return batch_loss(model, batch)

    def compute_measurement(self, batch: dict[str, Tensor], model: Any) -> Tensor:
        """A scalar whose gradient, layer by layer, is a direction."""
        total = torch.zeros(())
        for name, stacked in self.directions.items():
            wanted = stacked[batch["direction"]]
            identity = torch.eye(wanted.shape[2], dtype=wanted.dtype).expand(len(wanted), -1, -1)
            total = total + (model.get_submodule(name)(identity) * wanted.mT).sum()
        return total


def main() -> None:
    task = given_task()
    scoring = Scoring(task.read_directions())
    model = prepare_model(load_causal_model(task), scoring)
    analyzer = Analyzer("bench", model, scoring, cpu=True, disable_tqdm=True, output_dir=str(task.work / "kronfluence"))
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=_collate))
    analyzer.fit_all_factors(
        "identity",
        task.sets[next(iter(task.sets))],
        per_device_batch_size=task.batch,
        factor_args=FactorArguments(strategy="identity"),
        overwrite_output_dir=True,
    )
    types = dict.fromkeys(("per_sample_gradient_dtype", "precondition_dtype", "score_dtype"), task.torch_dtype)
    over_rows = pairwise.compute_dot_products_with_loader
    for name, rows in task.sets.items():

        def timed(name: str = name, **options: Any) -> Any:
            return task.time(name, lambda _: over_rows(**options))

        pairwise.compute_dot_products_with_loader = timed
        analyzer.compute_pairwise_scores(
            scores_name=name,
            factors_name="identity",
            query_dataset=[{"direction": 0}, {"direction": 1}],
            train_dataset=rows,
            per_device_query_batch_size=2,
            per_device_train_batch_size=task.batch,
            score_args=ScoreArguments(**types),
            overwrite_output_dir=True,
        )
        task.keep(name, analyzer.load_pairwise_scores(name)["all_modules"].T)
    left_out = "embeddings, head, norms; the gradient's norm, so dots and no cosines"
    task.write("identity factors", left_out=left_out, cosine=False)


def _collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    if "direction" in rows[0]:
        return {"direction": torch.tensor([row["direction"] for row in rows])}
    return collate(rows)


if __name__ == "__main__":
    main()
