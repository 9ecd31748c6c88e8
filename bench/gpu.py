"""Speed and memory of gradient scoring on a GPU: ``python -m bench.gpu [--shapes 1B,8B]``.

Randomly initialised Llama models in bfloat16 and rows of random tokens: nothing is downloaded, and no time depends on
what the weights are. Directions are dense, then factored as a scan's are, from as many anchors as the package has.
``--device cpu --shapes tiny`` tries the program without a GPU.
"""

import argparse
import gc
import sys
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.loops import BatchOneLoop
from bench.measure import batches_of, line, matmul_peak, timed, useful_flops
from bench.speed import each, plain_forward
from ripcurrent.data import EncodedRow
from ripcurrent.gradients import GradientPass, anchor_directions, stack_directions
from ripcurrent.models import ChatModel, sum_in_float32

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
        for kind in PEAK_GOALS:
            # what an earlier part held must not count in this one's peak
            gc.collect()
            try:
                _measure(shape, kind, device, given.budget, given.rows)
            except torch.OutOfMemoryError as error:
                ran_out = True
                print(f"  {kind} ran out of memory: {error}\n  A smaller --budget takes less.", flush=True)
    return int(ran_out)


def _measure(shape: str, kind: str, device: torch.device, budget: int, most: int) -> None:
    """Print every figure of a shape with one kind of directions."""
    chat_model, peak = random_model(shape, device), matmul_peak(device)
    weights = sum(each.numel() * each.element_size() for each in chat_model.model.parameters())
    gradient_pass, vocabulary = GradientPass(chat_model), chat_model.model.config.vocab_size
    print(f"\n{shape}, {kind}: {weights / 1e9:.2f} GB of weights, matmul peak {peak / 1e12:.1f} TFLOP/s", flush=True)
    if kind == "dense":
        shapes, plain = gradient_pass.layers.parameter_shapes(), []
        for _ in range(2):
            # one random row for every row of a matrix: nothing but the stacked copies takes memory
            row = {name: torch.randn(own[-1], device=device, dtype=torch.bfloat16) for name, own in shapes.items()}
            plain.append({name: row[name].expand(own) for name, own in shapes.items()})
    else:
        # from as many anchors as the package has, of about 33 tokens, ten of them bearing loss
        anchors = [list(random_rows(33, 30, vocabulary, seed, bearing=10)) for seed in (1, 2)]
        plain = [one.gradient for one in anchor_directions(gradient_pass, anchors)]
    directions = stack_directions(gradient_pass.layers, plain, torch.bfloat16)
    scan = partial(gradient_pass.measure, directions=directions)
    rows_of = {mean: list(random_rows(mean, min(count, most), vocabulary)) for mean, count in ROWS.items()}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        each(scan, batches_of([row for row in rows_of[180] if len(row.tokens) <= 512], 512, device))
        taken = torch.cuda.max_memory_allocated(device) / weights
        print(line("peak, times the weights, 512-token batches", taken, (PEAK_GOALS[kind],)), flush=True)
    for mean, rows in rows_of.items():
        batches = batches_of(rows, budget, device)
        seconds = timed(device, partial(each, scan, batches))
        forward = timed(device, partial(plain_forward, gradient_pass, batches))
        of_peak = useful_flops(chat_model.model, rows) / peak / seconds
        print(f"  rows of {mean} tokens: {len(rows) / seconds:.1f} rows/s")
        print(line("plain forward passes", seconds / forward))
        print(line("of the matmul peak, useful FLOPs", of_peak, (0.35,), more=True), flush=True)
        if kind == "dense":
            # of every length its share, or the few would be longer or shorter than the many
            few = sorted(rows, key=lambda row: len(row.tokens))
            few = few[4::8] if len(few) >= 32 else few
            rival = BatchOneLoop(chat_model, plain)
            times = timed(device, partial(rival.run, few)) / len(few) * len(rows) / seconds
            print(line("times the loop", times, (LOOP_GOALS[mean],), more=True))
            print(line("times the loop, arithmetic alone", times / of_peak))


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
            response_tokens=length - prompt,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
