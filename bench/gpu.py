"""Speed and memory of gradient scoring on a GPU: ``python -m bench.gpu [--shapes 1B,8B]``.

Randomly initialised Llama models in bfloat16 and rows of random tokens: nothing is downloaded, and no time depends on
what the weights are. Directions are dense, then factored as a scan's are, from as many anchors as the package has.
``--device cpu --shapes tiny`` tries the program without a GPU.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from bench.loops import BatchOneLoop
from bench.measure import batches_of, line, matmul_peak, timed, useful_flops
from bench.speed import each, plain_forward
from ripcurrent.data import EncodedRow
from ripcurrent.gradients import Directions, GradientPass, anchor_directions, make_batch, stack_directions
from ripcurrent.models import ChatModel, sum_in_float32
from ripcurrent.statistics import spearman

SHAPES = {
    "tiny": {
        "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": True,
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
"""Mean tokens of a row, and how many rows of that kind; the loop is given one in eight."""
ANCHORS = 30
"""Anchors of each direction, of about 33 tokens, ten of them bearing loss."""
LOOP_GOALS = {180: 2.0, 57: 5.0}
PEAK_GOALS = {"dense": 3.4, "factored": 2.6}
"""Of memory with batches of 512 tokens, times the weights."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="1B,8B", help=f"of {', '.join(SHAPES)}, with commas between")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=int, default=4096, help="padded tokens a batch (default %(default)s)")
    parser.add_argument("--rows", type=int, default=10**6, help="at most so many rows of each length")
    given = parser.parse_args()
    if unknown := set(given.shapes.split(",")) - set(SHAPES):
        parser.error(f"no shape {', '.join(sorted(unknown))}; shapes: {', '.join(SHAPES)}")
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("No GPU that PyTorch can use is here. Without one: --device cpu --shapes tiny", file=sys.stderr)
        return 2
    device, ran_out = torch.device(given.device), False
    sum_in_float32()  # as the product's own models are
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{name}, torch {torch.__version__}, bf16, budget {given.budget} tokens")
    for shape in given.shapes.split(","):
        measured = _Measured(shape, device, given.budget, given.rows)
        for part in (measured.dense, measured.factored, measured.loop):
            measured.reset_memory()
            try:
                part()
            except torch.OutOfMemoryError as error:
                ran_out = True
                print(f"  {part.__name__} ran out of memory: {error}\n  A smaller --budget takes less.", flush=True)
    return int(ran_out)


class _Measured:
    """The figures of a shape; a part that runs out of memory loses its own alone."""

    def __init__(self, shape: str, device: torch.device, budget: int, most: int) -> None:
        self.device, self.budget, self.peak = device, budget, matmul_peak(device)
        self.chat_model = random_model(shape, device)
        model = self.chat_model.model
        self.weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        self.gradient_pass = GradientPass(self.chat_model)
        vocabulary = model.config.vocab_size
        self.rows = {mean: list(random_rows(mean, min(n, most), vocabulary)) for mean, n in ROWS.items()}
        self.anchors = [list(random_rows(33, ANCHORS, vocabulary, seed, bearing=10)) for seed in (1, 2)]
        shapes = self.gradient_pass.layers.parameter_shapes()
        self.random = [RandomDirection(shapes, device, seed) for seed in (1, 2)]
        self.rates: dict[int, dict[str, float]] = {mean: {} for mean in ROWS}
        print(
            f"\n{shape}: {self.weights / 1e9:.2f} GB of weights, matmul peak {self.peak / 1e12:.1f} TFLOP/s", flush=True
        )

    def dense(self) -> None:
        self._of_kind("dense", stack_directions(self.gradient_pass.layers, self.random, torch.bfloat16))

    def factored(self) -> None:
        gradients = [one.gradient for one in anchor_directions(self.gradient_pass, self.anchors)]
        self._of_kind("factored", stack_directions(self.gradient_pass.layers, gradients, torch.bfloat16))

    def _of_kind(self, kind: str, directions: Directions) -> None:
        scan = partial(self.gradient_pass.measure, directions=directions)
        if self.device.type == "cuda":
            self.reset_memory()
            each(scan, batches_of([row for row in self.rows[180] if len(row.tokens) <= 512], 512, self.device))
            taken = torch.cuda.max_memory_allocated(self.device) / self.weights
            print(line(f"peak, times the weights, {kind}, 512-token batches", taken, (PEAK_GOALS[kind],)), flush=True)
        for mean, rows in self.rows.items():
            batches = batches_of(rows, self.budget, self.device)
            seconds = timed(self.device, partial(each, scan, batches))
            forward = timed(self.device, partial(plain_forward, self.gradient_pass, batches))
            of_peak = useful_flops(self.chat_model.model, rows) / self.peak / seconds
            self.rates[mean] |= {kind: len(rows) / seconds, "arithmetic alone": len(rows) / seconds / of_peak}
            print(f"  rows of {mean} tokens, {kind} directions: {len(rows) / seconds:.1f} rows/s")
            print(line("plain forward passes", seconds / forward))
            print(line("of the matmul peak, useful FLOPs", of_peak, (0.35,), more=True), flush=True)

    def loop(self) -> None:
        rival = BatchOneLoop(self.chat_model, self.random)
        directions = stack_directions(self.gradient_pass.layers, self.random, torch.bfloat16)
        for mean, every in self.rows.items():
            # of every length its share, or the few would be longer or shorter than the many
            rows = sorted(every, key=lambda row: len(row.tokens))
            rows = rows[4::8] if len(rows) >= 32 else rows
            rate = len(rows) / timed(self.device, partial(rival.run, rows))
            for kind, own in self.rates[mean].items():
                goals = (LOOP_GOALS[mean],) if kind in PEAK_GOALS else None
                print(line(f"rows of {mean} tokens, times the loop, {kind}", own / rate, goals, more=True), flush=True)
            dots, squared = rival.run(rows)
            theirs = (dots / squared.sqrt()[:, None]).double().cpu().numpy()
            signals = [self.gradient_pass.measure(make_batch([row], self.device), directions) for row in rows]
            ours = np.concatenate([one.dots / np.sqrt(one.squared_norm)[:, None] for one in signals])
            agreement = min(spearman(ours[:, n], theirs[:, n]) for n in (0, 1))
            print(line(f"rows of {mean} tokens, Spearman with the loop", agreement, (0.98,), more=True), flush=True)

    def reset_memory(self) -> None:
        # what only a cycle of references holds would count in the next peak
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


class RandomDirection(Mapping[str, Tensor]):
    """A direction of which each parameter is made when it is asked for: no more than a scan's own copies exist."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device, seed: int) -> None:
        self._shapes, self._device, self._seed = shapes, device, seed

    def __getitem__(self, name: str) -> Tensor:
        torch.manual_seed(self._seed)
        return torch.randn(self._shapes[name], dtype=torch.bfloat16, device=self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def random_model(shape: str, device: torch.device) -> ChatModel:
    """A frozen model of a shape, made on its device in its type."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], max_position_embeddings=4096)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    return ChatModel(
        name=shape, model=model.requires_grad_(False), tokenizer=None, device=device, dtype=torch.bfloat16, scope="all",
        adapter=None, fingerprint=shape, template_sha256=None, revision=None,
    )  # fmt: skip


def random_rows(mean: int, count: int, vocabulary: int, seed: int = 0, bearing: int = 1024) -> Iterator[EncodedRow]:
    """Rows of random tokens, lengths log-normal around ``mean``; ``bearing`` tokens after the first third bear loss."""
    generator = np.random.default_rng([mean, seed])
    for index in range(count):
        length = int(np.clip(mean * generator.lognormal(-0.18, 0.6), 12, 1024))
        prompt, place = max(4, length // 3), np.arange(length)
        yield EncodedRow(
            index=index, status="ok", tokens=generator.integers(0, vocabulary, length).astype(np.int32),
            loss_mask=(place >= prompt) & (place < prompt + bearing), truncated=False, prompt_tokens=prompt,
            response_tokens=length - prompt, last_prompt=prompt - 1, last_content=length - 2,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
