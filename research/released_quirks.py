"""What do two quirks of the paper's released code do to the two-sided ranking?

    python -m research.released_quirks rows.jsonl --rows 40 --anchors 5 --out released_quirks.csv

The released code does not zero gradients between anchors, so its i-th anchor is the sum of the first i. It also rounds
similarities and their sums to bfloat16. Both are repeated with plain autograd, one row at a time.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ripcurrent as rc
from research.tables import Floats, write_table
from ripcurrent.data import EncodedRow, encode_anchor, encode_rows
from ripcurrent.models import ChatModel
from ripcurrent.statistics import spearman


def gradient(chat_model: ChatModel, row: EncodedRow) -> Tensor:
    """The gradient of a row's mean loss over all parameters, as one vector of float32."""
    chat_model.model.zero_grad(set_to_none=True)
    ids = torch.from_numpy(row.tokens.astype("int64"))[None].to(chat_model.device)
    bears = torch.from_numpy(row.loss_mask)[1:].to(chat_model.device)
    logits = chat_model.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    torch.nn.functional.cross_entropy(logits[bears], ids[0, 1:][bears]).backward()
    parts = [parameter.grad for parameter in chat_model.model.parameters() if parameter.grad is not None]
    return torch.cat([part.reshape(-1).float() for part in parts])


def directions(chat_model: ChatModel, anchors: Iterable[EncodedRow]) -> tuple[Tensor, Tensor]:
    """The mean of the anchors' unit gradients, and the same of their running sums."""
    plain, summed, running, count = torch.zeros(1), torch.zeros(1), torch.zeros(1), 0
    for anchor in anchors:
        own = gradient(chat_model, anchor)
        running = running + own
        plain, summed = plain + own / own.norm(), summed + running / running.norm()
        count += 1
    return plain / count, summed / count


def bfloat16(values: Floats) -> Floats:
    """Values as bfloat16 keeps them."""
    rounded: Floats = torch.from_numpy(values).to(torch.bfloat16).double().numpy()
    return rounded


def two_sided(cosines: dict[str, Floats]) -> Floats:
    """Harmful minus the sum over the safe sets."""
    return cosines["harmful"] - np.sum([values for name, values in cosines.items() if name != "harmful"], axis=0)


def main() -> None:
    """Score rows as the paper says and as the released code does, and compare the rankings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a dataset")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--anchor-set", default="builtin")
    parser.add_argument("--anchors", type=int, default=5, help="of each set")
    parser.add_argument("--rows", type=int, default=40, help="the first rows of the dataset")
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--out", type=Path, help="CSV file; the terminal unless given")
    options = parser.parse_args()
    chat_model = rc.load_model(options.model, dtype="float32")
    for parameter in chat_model.model.parameters():
        parameter.requires_grad_(True)
    by_set: dict[str, list[EncodedRow]] = {}
    for anchor in rc.load_anchors(options.anchor_set).anchors:
        encoded = encode_anchor(anchor.messages, chat_model.tokenizer, max_tokens=512, first_tokens=10)
        by_set.setdefault(anchor.set, []).append(encoded)
    of_sets = {name: directions(chat_model, anchors[: options.anchors]) for name, anchors in by_set.items()}
    rows = encode_rows(rc.read_rows(options.data, limit=options.rows), chat_model.tokenizer, max_tokens=512)
    intended: dict[str, list[float]] = {name: [] for name in of_sets}
    released: dict[str, list[float]] = {name: [] for name in of_sets}
    for row in (row for row in rows if row.status == "ok"):
        own = gradient(chat_model, row)
        own = own / own.norm()
        for name, (plain, summed) in of_sets.items():
            intended[name].append(float(own @ plain))
            released[name].append(float(own @ summed))
    paper = two_sided({name: np.array(values) for name, values in intended.items()})
    variants = {
        "anchors_running_sum": two_sided({name: np.array(values) for name, values in released.items()}),
        "round_to_bf16": bfloat16(two_sided({name: bfloat16(np.array(one)) for name, one in intended.items()})),
    }
    first = set(np.argsort(-paper, kind="stable")[: options.top].tolist())
    table: list[dict[str, object]] = []
    for name, values in variants.items():
        second = set(np.argsort(-values, kind="stable")[: options.top].tolist())
        common = {"dataset": Path(options.data).stem, "rows": len(paper), "anchors_per_set": options.anchors}
        table.append(
            {
                **common,
                "quirk": name,
                "spearman_with_the_paper": spearman(paper, values),
                f"of_{options.top}_riskiest_that_stay": len(first & second) / len(first),
                "distinct_scores": len(set(values.tolist())),
            }
        )
    write_table(table, options.out)


if __name__ == "__main__":
    main()
