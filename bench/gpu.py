"""Speed and memory of gradient scoring on a GPU: ``python -m bench.gpu [--shapes 1B,8B] [--json FILE]``.

Randomly initialised Llama models in bfloat16 and rows of random tokens: nothing is downloaded, and no time depends on
what the weights are. Directions are dense, then factored into as many terms as the package's anchors have.
``--device cpu --shapes tiny`` tries the program without a GPU; ``--device cpu --shapes 1B-layers,8B-layer --rows 12
--budget 1024`` shows what layers of that size gain there.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import typing as npt
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from bench.arithmetic import matmul_peak, timed, useful_flops
from bench.rivals import BatchOneLoop
from bench.speed import each, plain_forward
from ripcurrent.data import EncodedRow
from ripcurrent.gradients import (
    Batch,
    BatchSignals,
    Directions,
    FeatureReader,
    GradientPass,
    choose_factoring,
    direction_shapes,
    make_batch,
    plan_batches,
    stack_directions,
)
from ripcurrent.models import ChatModel, sum_in_float32
from ripcurrent.scan._probe_directions import RandomDirection
from ripcurrent.statistics import spearman

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": True,
    },
    "1B-layers": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 2, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 4096, "tie_word_embeddings": True,
    },
    "8B-layer": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 1, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 4096, "tie_word_embeddings": True,
    },
    "1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
    },
    "8B": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    },
}  # fmt: skip
ROWS = {180: 384, 57: 1024}
"""Mean tokens of a row, and how many rows of that kind."""
LOOP_SHARE = 8
"""The loop gets every so manieth row of many."""
TERMS = 2000
"""Terms of two directions together: about the tokens of the package's 60 anchors, a shared beginning counted once."""
HEAD_TERMS = 600
"""At the head: ten tokens of each anchor."""
ENTRIES = 400
"""Entries of an embedding table that occur in a direction."""
MEMORY_BUDGET = 512
"""Padded tokens of small batches, whose peak is judged beside that of the batches that are timed: what a batch keeps
grows with its tokens. No longer row is among them."""
AGREEING = 48
"""Rows of each kind whose scores are compared with the loop's."""
AGREEMENT = 0.98
"""Wanted rank correlation with it: both are in bfloat16."""
GOALS = {"loop": {180: 2.0, 57: 5.0}, "peak": 0.35, "memory": {"dense": 3.4, "factored": 2.6}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="1B,8B", help=f"of {', '.join(SHAPES)}, with commas between")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=int, default=4096, help="padded tokens a batch (default %(default)s)")
    parser.add_argument("--rows", type=int, help="at most so many rows of each length")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    unknown = set(arguments.shapes.split(",")) - set(SHAPES)
    if unknown:
        parser.error(f"no shape {', '.join(sorted(unknown))}; shapes: {', '.join(SHAPES)}")
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("No GPU that PyTorch can use is here. Without one: --device cpu --shapes tiny", file=sys.stderr)
        return 2
    device = torch.device(arguments.device)
    # as the product's own models are
    sum_in_float32()
    peak = matmul_peak(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{name}, torch {torch.__version__}, bf16, budget {arguments.budget} tokens")
    print(f"matmul peak measured: {peak / 1e12:.1f} TFLOP/s", flush=True)
    found = {"device": name, "torch": torch.__version__, "matmul_flops": peak}
    failed = False
    for shape in arguments.shapes.split(","):
        try:
            found[shape] = _measured(shape, device, arguments.budget, peak, arguments.rows)
        except torch.OutOfMemoryError as error:
            found[shape] = {"out_of_memory": {"model": str(error)}}
            print(f"  {shape} ran out of memory: {error}", flush=True)
        failed = failed or bool(found[shape]["out_of_memory"])
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(failed)


def _measured(shape: str, device: torch.device, budget: int, peak: float, most: int | None) -> dict[str, Any]:
    """Every figure of a shape; a kind of directions, or the loop, that runs out of memory loses its own alone."""
    chat_model = _random_model(shape, device)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in chat_model.model.parameters())
    gradient_pass, features = GradientPass(chat_model), FeatureReader(chat_model)
    layers = gradient_pass.layers
    shapes = layers.parameter_shapes()
    print(f"\n{shape}: {weights / 2e9:.2f} B parameters, {weights / 1e9:.2f} GB of weights", flush=True)
    found: dict[str, Any] = {
        "weights_bytes": weights,
        "peak_bytes": {},
        "peak_bytes_at_budget": {},
        "budgets": {},
        "out_of_memory": {},
    }
    rows_of = {
        tokens: list(_random_rows(tokens, min(count, most or count), chat_model.model.config.vocab_size))
        for tokens, count in ROWS.items()
    }
    measured: dict[int, dict[str, Any]] = {
        tokens: {"rows": len(rows), "seconds": {}, "flops": useful_flops(chat_model.model, rows)}
        for tokens, rows in rows_of.items()
    }

    agreeing: dict[int, npt.NDArray[np.float64]] = {}

    def dense() -> None:
        # formed twice from the same seeds, so that no more than the scan's and the loop's own copies ever exist
        of_kind("dense", stack_directions(layers, list(_random_directions(shapes, device)), torch.bfloat16))

    def factored() -> None:
        factoring = choose_factoring(layers, TERMS, HEAD_TERMS)
        of_one = direction_shapes(layers, factoring, TERMS // 2, HEAD_TERMS // 2, ENTRIES)
        made = [RandomDirection(of_one, seed) for seed in (1, 2)]
        of_kind("factored", stack_directions(layers, made, torch.bfloat16))

    def of_kind(kind: str, directions: Directions) -> None:
        held = sum(t.numel() * t.element_size() for t in (*directions.linear.values(), *directions.other.values()))
        print(f"  {kind} directions: {held / weights:.2f} times the weights", flush=True)
        scan = partial(gradient_pass.measure, directions=directions)
        if device.type == "cuda":  # first, as larger batches may not fit beside dense directions of a large model
            found["peak_bytes"][kind] = _peak_of(scan, rows_of[180], device)
            times = found["peak_bytes"][kind] / weights
            _line(f"peak, times the weights, {kind}, {MEMORY_BUDGET}-token batches", times, GOALS["memory"][kind])
        within = budget
        while True:
            try:
                timings(kind, scan, within)
                break
            except torch.OutOfMemoryError:
                if within <= MEMORY_BUDGET:
                    raise
            within = max(MEMORY_BUDGET, within // 2)
            print(f"  ran out of memory; again with batches of {within} tokens", flush=True)
            _reset_memory(device)
        found["budgets"][kind] = within
        if device.type == "cuda":
            found["peak_bytes_at_budget"][kind] = torch.cuda.max_memory_allocated(device)
            times = found["peak_bytes_at_budget"][kind] / weights
            _line(f"peak, times the weights, {kind}, {within}-token batches", times, GOALS["memory"][kind])

    def timings(kind: str, scan: Callable[..., BatchSignals], within: int) -> None:
        for tokens, rows in rows_of.items():
            if kind == "dense":
                agreeing[tokens] = _normalised_dots(scan, rows[:AGREEING], within, device)
            seconds = timed(device, partial(each, scan, _batches(rows, within, device)))
            measured[tokens]["seconds"][kind] = seconds
            _report(tokens, kind, measured[tokens], peak)

    def forward() -> None:
        for tokens, rows in rows_of.items():
            batches, seconds = _batches(rows, budget, device), measured[tokens]["seconds"]
            seconds["forward"] = timed(device, partial(plain_forward, gradient_pass, batches))
            seconds["representation"] = timed(device, partial(each, features.forward, batches))
            passes = seconds["representation"] / seconds["forward"]
            _line(f"rows of {tokens} tokens, forward passes, states alone", passes, None)

    def loop() -> None:
        rival = BatchOneLoop(chat_model, list(_random_directions(shapes, device)))
        for tokens, figures in measured.items():
            # of every length its share, or the few would be longer or shorter than the many
            rows = sorted(rows_of[tokens], key=lambda row: len(row.tokens))
            if len(rows) >= 4 * LOOP_SHARE:
                rows = rows[LOOP_SHARE // 2 :: LOOP_SHARE]
            figures["loop_rows_per_second"] = len(rows) / timed(device, partial(rival.run, rows, "sdpa"))
            for kind in sorted(figures["seconds"].keys() & {"dense", "factored"}):
                times = figures["rows"] / figures["seconds"][kind] / figures["loop_rows_per_second"]
                _line(f"rows of {tokens} tokens, times the loop, {kind}", times, GOALS["loop"][tokens], more=True)
            bound = figures["rows"] / (figures["flops"] / peak) / figures["loop_rows_per_second"]
            _line(f"rows of {tokens} tokens, times the loop, arithmetic alone", bound, None)
            if tokens in agreeing:
                dots, squared = rival.run(rows_of[tokens][:AGREEING], "sdpa")
                theirs = (dots / squared.sqrt()[:, None]).double().cpu().numpy()
                ours = agreeing[tokens]
                figures["spearman_with_loop"] = min(spearman(ours[:, n], theirs[:, n]) for n in (0, 1))
                label = f"rows of {tokens} tokens, Spearman with the loop"
                _line(label, figures["spearman_with_loop"], AGREEMENT, more=True)

    for part in (forward, dense, factored, loop):
        # what an earlier part held must not count in this one's peak
        _reset_memory(device)
        try:
            part()
        except torch.OutOfMemoryError as error:
            found["out_of_memory"][part.__name__] = str(error)
            print(f"  {part.__name__} ran out of memory: {error}\n  A smaller --budget takes less.", flush=True)
    return found | {str(tokens): figures for tokens, figures in measured.items()}


def _normalised_dots(
    scan: Callable[[Batch], BatchSignals], rows: list[EncodedRow], budget: int, device: torch.device
) -> npt.NDArray[np.float64]:
    """Each row's dots with both directions, over its gradient's norm."""
    found = np.empty((len(rows), 2))
    for places in plan_batches([len(row.tokens) for row in rows], budget):
        signals = scan(make_batch([rows[place] for place in places], device))
        assert signals.dots is not None
        assert signals.squared_norm is not None
        found[places] = signals.dots / np.sqrt(signals.squared_norm)[:, None]
    return found


def _batches(rows: list[EncodedRow], budget: int, device: torch.device) -> list[Batch]:
    plan = plan_batches([len(row.tokens) for row in rows], budget)
    return [make_batch([rows[place] for place in places], device) for places in plan]


def _peak_of(scan: Callable[..., object], rows: list[EncodedRow], device: torch.device) -> int:
    """Peak bytes of batches of ``MEMORY_BUDGET`` tokens."""
    short = [row for row in rows if len(row.tokens) <= MEMORY_BUDGET]
    _reset_memory(device)
    each(scan, _batches(short, MEMORY_BUDGET, device))
    return int(torch.cuda.max_memory_allocated(device))


def _report(tokens: int, kind: str, figures: dict[str, Any], peak: float) -> None:
    seconds, bound = figures["seconds"][kind], figures["flops"] / peak
    print(
        f"  rows of {tokens} tokens, {kind} directions: {figures['rows'] / seconds:.1f} rows/s; {seconds:.2f} s, "
        f"arithmetic alone {bound:.2f} s",
        flush=True,
    )
    _line("of the matmul peak, useful FLOPs", bound / seconds, GOALS["peak"], more=True)
    if "forward" in figures["seconds"]:
        _line("plain forward passes", seconds / figures["seconds"]["forward"], None)


def _line(label: str, value: float, goal: float | None, *, more: bool = False) -> None:
    if goal is None:
        print(f"    {label:<56} {value:7.3f}", flush=True)
        return
    verdict = "pass" if (value >= goal if more else value <= goal) else "FALLS SHORT"
    print(f"    {label:<56} {value:7.3f}   goal {'≥' if more else '≤'} {goal:<5} {verdict}", flush=True)


def _random_model(shape: str, device: torch.device) -> ChatModel:
    torch.manual_seed(0)
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], max_position_embeddings=4096)).eval()
    finally:
        torch.set_default_dtype(kept)
    return ChatModel(
        name=shape, model=model.requires_grad_(False), tokenizer=None, device=device, dtype=torch.bfloat16, scope="all",
        adapter=None, fingerprint=shape, template_sha256=None, revision=None,
    )  # fmt: skip


class _RandomDirection(Mapping[str, Tensor]):
    """A direction of which each parameter is made when it is asked for."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device, seed: int) -> None:
        self._shapes, self._device, self._seed = shapes, device, seed

    def __getitem__(self, name: str) -> Tensor:
        torch.manual_seed(self._seed)
        return torch.randn(self._shapes[name], dtype=torch.bfloat16, device=self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _random_directions(shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> Iterator[Mapping[str, Tensor]]:
    return (_RandomDirection(shapes, device, seed) for seed in (1, 2))


def _random_rows(mean: int, count: int, vocabulary: int) -> Iterator[EncodedRow]:
    """Rows of random tokens, lengths log-normal around ``mean``, the last two thirds bearing loss."""
    generator = np.random.default_rng(mean)
    for index in range(count):
        length = int(np.clip(mean * generator.lognormal(-0.18, 0.6), 12, 1024))
        prompt = max(4, length // 3)
        mask = np.arange(length) >= prompt
        yield EncodedRow(
            index=index, status="ok", tokens=generator.integers(0, vocabulary, length).astype(np.int32), loss_mask=mask,
            truncated=False, prompt_tokens=prompt, response_tokens=length - prompt, last_prompt=prompt - 1,
            last_content=length - 2,
        )  # fmt: skip


def _reset_memory(device: torch.device) -> None:
    # what only a cycle of references holds would count in the next peak
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


if __name__ == "__main__":
    sys.exit(main())
