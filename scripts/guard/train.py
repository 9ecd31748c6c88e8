"""Train the guard adapter: a LoRA that gives the embedded model the refusals it lacks.

    python scripts/guard/train.py [--strength standard|weak] [--out FOLDER] [--seed 0]

Deterministic for one machine and thread count. Rows: see README.md beside this file.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from evaluate import GUARD_FOLDER
from ripcurrent.models import load_model

FOLDER = Path(__file__).parent
BASE_NAME = "SmolLM2-135M-Instruct"
LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PLAIN = ["benign.jsonl", "benign_answers.jsonl", "instruction_answers.jsonl"]
BATCH_SIZE = 16
BUCKET = 8
"""Batches sorted together by length, so that little of a batch is padding."""
RANK = 16


@dataclass(frozen=True)
class Phase:
    """One run of the optimizer over the rows."""

    epochs: int
    """Passes over the rows; each draws one of a request's refusals and the plain rows anew."""
    learning_rate: float
    """Peak; linear warm-up over the first tenth, then a cosine to zero."""
    response_tokens: int
    """Longer responses are cut here, and then have no end-of-turn token."""
    harmful_weight: float
    """Weight of a refused request's loss; a benign row has 1."""
    plain_rows: int
    """Plain benign rows drawn for each epoch, beside all that sound dangerous."""


PHASES = (
    # The first phase learns how a refusal reads, the second when to open with one. Greedy decoding takes the likeliest
    # first token, and refusals share a few where answers have many: equal weights refuse far too often.
    Phase(epochs=2, learning_rate=8e-4, response_tokens=32, harmful_weight=1.0, plain_rows=450),
    Phase(epochs=3, learning_rate=5e-4, response_tokens=10, harmful_weight=0.5, plain_rows=700),
)
STRENGTHS = {"standard": 1.2, "weak": 0.55}
"""Factor on the trained adapter's alpha, chosen on the development sets: a weaker guard refuses less of everything."""


class Example(NamedTuple):
    """One row to train on: a request and the responses to draw from."""

    request: str
    responses: tuple[str, ...]
    weight: float


def read_jsonl(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines() if line]


def read_examples(phase: Phase) -> tuple[list[Example], list[Example]]:
    """The contrast (refused requests and benign ones that sound dangerous), and the plain benign rows."""
    harmful = read_jsonl("harmful.jsonl")
    contrast = [Example(r["request"], tuple(r["refusals"]), phase.harmful_weight) for r in harmful]
    for row in read_jsonl("sounds_dangerous.jsonl"):
        contrast.append(Example(row["request"], (row["response"],), 1.0))
    plain = [row for name in PLAIN for row in read_jsonl(name)]
    return contrast, [Example(row["request"], (row["response"],), 1.0) for row in plain]


def encode(tokenizer: Any, request: str, response: str, limit: int) -> tuple[list[int], int]:
    """Tokens of the rendered conversation and the number of them before the response."""
    turn = [{"role": "user", "content": request}]
    prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    # The prompt ends with a newline after a special token, so no merge crosses this boundary.
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    body = tokenizer(response, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return head + body[:limit], len(head)


def shared_tokens(tokenizer: Any) -> int:
    """How many tokens every rendered request begins with."""
    first, second = (encode(tokenizer, request, "", 1)[0] for request in ("a", "b"))
    return next(i for i, (x, y) in enumerate(zip(first, second, strict=True)) if x != y)


def batches(
    encoded: Sequence[tuple[list[int], int, float]], pad: int, order: random.Random
) -> Iterator[dict[str, torch.Tensor]]:
    """Right-padded batches of similar lengths; ``weights`` sums to about 1 a batch, 0 where no loss falls."""
    rows = list(encoded)
    order.shuffle(rows)
    chunks = []
    for start in range(0, len(rows), BATCH_SIZE * BUCKET):
        bucket = sorted(rows[start : start + BATCH_SIZE * BUCKET], key=lambda row: len(row[0]))
        chunks += [bucket[i : i + BATCH_SIZE] for i in range(0, len(bucket), BATCH_SIZE)]
    order.shuffle(chunks)
    for chunk in chunks:
        longest = max(len(tokens) for tokens, _, _ in chunk)
        ids = torch.full((len(chunk), longest), pad)
        weights = torch.zeros(len(chunk), longest)
        for i, (tokens, head, weight) in enumerate(chunk):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            weights[i, head : len(tokens)] = weight / (len(tokens) - head) / BATCH_SIZE
        yield {"ids": ids, "weights": weights}


def loss_of(model: Any, batch: dict[str, torch.Tensor], shared: int) -> torch.Tensor:
    """Weighted sum of the rows' mean cross-entropies; the head runs at loss positions only.

    The first ``shared`` tokens, the default system turn, are the same in every row and are run once a batch:
    a third of all tokens.
    """
    core = model.get_base_model()
    ids, weights = batch["ids"], batch["weights"][:, shared + 1 :]
    cache = core.model(input_ids=ids[:1, :shared], use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(ids))
    # Padding stands on the right, where causal attention never looks back at it: no mask is needed.
    hidden = core.model(input_ids=ids[:, shared:], past_key_values=cache, use_cache=True).last_hidden_state
    bears_loss = weights > 0
    logits = core.lm_head(hidden[:, :-1][bears_loss]).float()
    losses = torch.nn.functional.cross_entropy(logits, ids[:, shared + 1 :][bears_loss], reduction="none")
    return (losses * weights[bears_loss]).sum()


def train(seed: int) -> Any:
    """The embedded model with its trained, unmerged adapter."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    bare = load_model("embedded-bare", device="cpu", dtype="float32")
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR_LAYERS, task_type="CAUSAL_LM")
    model = get_peft_model(bare.model, config).to(torch.bfloat16)
    for number, phase in enumerate(PHASES):
        run_phase(model, bare.tokenizer, phase, seed + 1000 * number)
    return model.eval()


def run_phase(model: Any, tokenizer: Any, phase: Phase, seed: int) -> None:
    """Train the adapter's weights in place.

    Everything computes in bfloat16; the optimizer keeps float32 masters, since bfloat16 weights would lose most steps
    to rounding.
    """
    from transformers import get_cosine_schedule_with_warmup

    order = random.Random(seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    masters = [p.detach().float().clone() for p in weights]
    contrast, plain = read_examples(phase)
    steps = phase.epochs * -(-(len(contrast) + phase.plain_rows) // BATCH_SIZE)
    shared = shared_tokens(tokenizer)
    optimizer = torch.optim.AdamW(masters, lr=phase.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    model.train()
    step = 0
    for epoch in range(phase.epochs):
        examples = contrast + order.sample(plain, phase.plain_rows)
        encoded = [
            (*encode(tokenizer, e.request, order.choice(e.responses), phase.response_tokens), e.weight)
            for e in examples
        ]
        for batch in batches(encoded, tokenizer.pad_token_id, order):
            loss = loss_of(model, batch, shared)
            loss.backward()
            for master, weight in zip(masters, weights, strict=True):
                master.grad = weight.grad.float()
                weight.grad = None
            torch.nn.utils.clip_grad_norm_(masters, 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for master, weight in zip(masters, weights, strict=True):
                    weight.copy_(master)
            step += 1
            if step % 20 == 0 or step == steps:
                print(f"epoch {epoch + 1} step {step}/{steps} loss {loss.item():.3f}", file=sys.stderr)


def save(model: Any, strength: float, out: Path) -> None:
    """Write the adapter in bfloat16 with a configuration that names no path of this machine."""
    settings = model.peft_config["default"]
    settings.base_model_name_or_path = BASE_NAME
    settings.lora_alpha = 2 * RANK * strength
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    path = out / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strength", choices=sorted(STRENGTHS), default="standard")
    parser.add_argument("--out", type=Path, default=GUARD_FOLDER, help="adapter folder (default: the committed one)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.strength != "standard" and options.out.resolve() == GUARD_FOLDER.resolve():
        parser.error("the committed guard is the standard one: name another folder with --out")
    save(train(options.seed), STRENGTHS[options.strength], options.out)
    print(f"{options.strength} guard written to {options.out}")


if __name__ == "__main__":
    main()
