"""dattri: ``TracInAttributor`` with normalised gradients and no projection.

Run in dattri's environment: ``run_dattri.py TASK``. Its constructor has no way to turn the projection off; the
attribute is set afterwards. A row's gradient is taken through one flat vector of all parameters, which is most of the
time. Norms and dots of such vectors are summed in float32, which loses a few percent of them on a CPU. Its test
gradients are taken again with every batch of rows; here they are the directions, as gradients of linear functions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from exchange import Row, collate, given_task, load_causal_model
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

ROWS = 1


def main() -> None:
    task = given_task()
    model = load_causal_model(task, attn_implementation="eager")
    stacked = task.read_directions()
    # The scope is what requires gradients.
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in stacked)
    wanted = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    directions = torch.cat([stacked.pop(name).flatten(1) for name in wanted], dim=1)
    for name in task.sets:
        task.keep(name, task.time(name, partial(_attribute, model, directions)))
    left_out = "embeddings, head, norms" if task.scope == "linear" else ""
    settings = f"{ROWS} row at once, eager attention, glibc keeps freed memory"
    task.write(settings, left_out=left_out, unit_directions=True)


def _attribute(model: Any, directions: Tensor, rows: list[Row]) -> Tensor:
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        ids, labels = data
        inputs = {"input_ids": ids.unsqueeze(0), "use_cache": False}
        logits = torch.func.functional_call(model, parameters, (), inputs).logits[0]
        return torch.nn.functional.cross_entropy(logits[:-1].float(), labels[1:], ignore_index=-100)

    def direction(flat: Tensor, data: tuple[Tensor]) -> Tensor:
        return data[0].to(flat.dtype) @ (directions @ flat)

    attribution = AttributionTask(
        loss_func=loss,
        model=model,
        checkpoints=[dict(model.named_parameters())],
        checkpoints_load_func=lambda model, checkpoint: model,
    )
    attribution.target_func = direction
    attributor = TracInAttributor(attribution, weight_list=torch.ones(1), normalized_grad=True)
    attributor.projector_kwargs = None
    train = DataLoader(rows, batch_size=ROWS, shuffle=False, collate_fn=lambda each: tuple(collate(each).values()))
    test = DataLoader(TensorDataset(torch.eye(2)), batch_size=2, shuffle=False)
    with torch.no_grad():
        return attributor.attribute(train, test)


if __name__ == "__main__":
    main()
