"""dattri-llm: ``TracInAttributor`` with normalised gradients, factorised capture, weights frozen.

Run in dattri-llm's environment: ``run_dattri_llm.py TASK``. The directions enter as its test gradients, already formed,
through the two hooks of its workflow that give the gradient sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from dattri_llm import AttributionArguments, AttributionTask, HookManagerConfig, TracInAttributor
from dattri_llm.gradient.gradient import Gradient
from dattri_llm.gradient.streaming import GradientStreamer
from dattri_llm.utils.module import rms_norm_module_kwargs
from exchange import DIRECTIONS, Row, batch_loss, collate, given_task, load_causal_model
from torch import Tensor


class Queries(nullcontext):  # type: ignore[type-arg]
    """Both directions as one block of its test gradients, in the form that its scoring loop takes."""

    reusable = True

    def __init__(self, block: Gradient) -> None:
        super().__init__(self)
        self.block = block

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[int, Gradient, list[str]]]:
        yield 0, self.block, list(DIRECTIONS)


class Attributor(TracInAttributor):  # type: ignore[misc]
    """Its attributor with the rows padded batch by batch, and with given test gradients."""

    queries: Gradient

    def generate_train_rep(self, train_dataset: Any, **options: Any) -> GradientStreamer:
        return GradientStreamer(
            self.task.model,
            train_dataset,
            self.args,
            batch_size=self.args.per_device_train_batch_size,
            loss_fn=self.task.loss_func,
            config=options["hook_config"],
            collate_fn=collate,
        )

    def generate_test_rep(self, test_dataset: Any, **options: Any) -> Queries:
        return Queries(self.queries)


def main() -> None:
    task = given_task()
    model = load_causal_model(task).requires_grad_(False)
    # One trainable tensor at the entrance lets gradients flow, as its documentation has it.
    model.get_input_embeddings().weight.requires_grad_(True)
    hooks, queries = _hooks_and_queries(model, task.read_directions())
    for name in task.sets:
        arguments = AttributionArguments(
            output_dir=str(task.work / "dattri-llm"), per_device_train_batch_size=task.batch, use_cpu=True
        )
        attributor = Attributor(arguments, task=AttributionTask(loss_func=batch_loss, model=model))
        attributor.queries = queries
        attribute = partial(_attribute, attributor, hooks)
        task.keep(name, task.time(name, attribute))
    linear = task.scope == "linear"
    left_out = "embeddings, head, norms" if linear else "the cross term of the tied head and embedding"
    settings = "capture_style auto, weights frozen, directions as test gradients"
    task.write(settings, left_out=left_out, unit_directions=True)


def _attribute(attributor: Attributor, hooks: HookManagerConfig, rows: list[Row]) -> Tensor:
    return attributor.attribute(rows, None, hook_config=hooks, normalized_grad=True).scores


def _hooks_and_queries(model: Any, directions: dict[str, Tensor]) -> tuple[HookManagerConfig, Gradient]:
    kinds, types, norms, data = {}, {}, {}, {}
    modules = dict(model.named_modules())
    head = next(name for name, module in modules.items() if module is model.get_output_embeddings())
    for parameter, stacked in directions.items():
        name = parameter.removesuffix(".weight")
        module = modules[name]
        if isinstance(module, torch.nn.Linear):
            types[name] = "nn.Linear"
        elif isinstance(module, torch.nn.Embedding):
            types[name] = "nn.Embedding"
            # The tied head is a layer of its own to it, with the same direction.
            kinds[head], types[head], data[head] = "linear_io", "nn.Linear", stacked.flatten(1)
        else:
            types[name] = "nn.RMSNorm"
            norms[name] = rms_norm_module_kwargs(normalized_shape=stacked.shape[1], eps=module.variance_epsilon)
        kinds[name], data[name] = "linear_io", stacked.flatten(1)
    hooks = HookManagerConfig(
        hook_types=kinds,
        layer_types={name: "nn.RMSNorm" for name in norms},
        module_kwargs=norms,
        capture_style="auto",
        include_frozen=True,
    )
    formed = dict.fromkeys(data, "materialized")
    return hooks, Gradient(representation=formed, data=data, layer_types=types, validate_on_init=False)


if __name__ == "__main__":
    main()
