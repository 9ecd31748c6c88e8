"""kronfluence: pairwise scores with identity factors, that is plain dot products; it has no cosine.

Run by the bench in kronfluence's environment: ``run_kronfluence.py TASK``. A query's gradient is read from hooks, layer
by layer. Each layer called on the identity matrix, with a direction as its output gradient, gives that direction.
"""

from __future__ import annotations

from typing import Any

import torch
from exchange import Row, Task, collate, given_task, load_causal_model, sum_of_row_means
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
        """The layers that the directions cover."""
        return list(self.directions)

    def compute_train_loss(self, batch: dict[str, Tensor], model: Any, sample: bool = False) -> Tensor:
        """Sum of the rows' losses."""
        return sum_of_row_means(model(input_ids=batch["input_ids"], use_cache=False).logits, batch["labels"])

    def compute_measurement(self, batch: dict[str, Tensor], model: Any) -> Tensor:
        """A scalar whose gradient, layer by layer, is a direction."""
        total = torch.zeros(())
        for name, stacked in self.directions.items():
            wanted = stacked[batch["direction"]]
            identity = torch.eye(wanted.shape[2], dtype=wanted.dtype).expand(len(wanted), -1, -1)
            total = total + (model.get_submodule(name)(identity) * wanted.mT).sum()
        return total


class Directions(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The numbers of the two directions."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: int) -> dict[str, int]:
        return {"direction": place}


def main() -> None:
    task = given_task()
    model = load_causal_model(task)
    scoring = Scoring(task.read_directions())
    model = prepare_model(model, scoring)
    analyzer = Analyzer("bench", model, scoring, cpu=True, disable_tqdm=True, output_dir=str(task.work / "kronfluence"))
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=_collate))
    analyzer.fit_all_factors(
        "identity",
        task.sets[next(iter(task.sets))],
        per_device_batch_size=task.batch,
        factor_args=FactorArguments(strategy="identity"),
        overwrite_output_dir=True,
    )
    over_rows = pairwise.compute_dot_products_with_loader
    for name, rows in task.sets.items():

        def timed(name: str = name, **options: Any) -> Any:
            return task.time(name, lambda _: over_rows(**options))

        pairwise.compute_dot_products_with_loader = timed
        task.keep(name, _score(task, analyzer, name, rows))
    task.result["measure"] = "dot"
    task.result["settings"] = "identity factors"
    task.result["left_out"] = "embeddings, head, norms; the gradient's norm, so dots and no cosines"
    task.write("kronfluence")


def _collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    if "direction" in rows[0]:
        return {"direction": torch.tensor([row["direction"] for row in rows])}
    return collate(rows)


def _score(task: Task, analyzer: Analyzer, name: str, rows: list[Row]) -> Tensor:
    types = dict.fromkeys(("per_sample_gradient_dtype", "precondition_dtype", "score_dtype"), task.torch_dtype)
    analyzer.compute_pairwise_scores(
        scores_name=name,
        factors_name="identity",
        query_dataset=Directions(),
        train_dataset=rows,
        per_device_query_batch_size=2,
        per_device_train_batch_size=task.batch,
        score_args=ScoreArguments(**types),
        overwrite_output_dir=True,
    )
    scores: Tensor = analyzer.load_pairwise_scores(name)["all_modules"].T
    return scores


if __name__ == "__main__":
    main()
