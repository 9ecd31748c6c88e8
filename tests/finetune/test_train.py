"""Training against a plain loop, and what seeds, types, LoRA and a diverging loss do to it."""

import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.lr_scheduler import StepLR
from transformers import TrainerCallback, get_scheduler
from transformers.integrations import integration_utils

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.finetune import Recipe, _train
from ripcurrent.finetune._model import load_for_training
from ripcurrent.finetune._train import require_converging
from ripcurrent.models import ChatModel, load_model
from tests.finetune.runs import Run, chat_model, encoded_rows, recipe, run, same, total_steps
from tests.models.tiny import save_tiny, tiny_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def whole_batches(monkeypatch) -> None:
    """Feed batches as they are, so that a loop can be given the same ones; what splitting changes has its own test."""
    monkeypatch.setattr(import_module("ripcurrent.finetune._trainer"), "PART_TOKENS", 10**6)
    # the head's positions in several chunks
    monkeypatch.setattr(import_module("ripcurrent.finetune._head_loss"), "POSITIONS", 40)


def token_losses(model: torch.nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every loss-bearing token, from whole logits and with an attention mask."""
    last = [max(place for place, label in enumerate(line) if label != -100) for line in labels.tolist()]
    attention = torch.tensor([[int(place <= end) for place in range(ids.shape[1])] for end in last])
    logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1].float()
    targets = labels[:, 1:]
    return torch.nn.functional.cross_entropy(logits[targets != -100], targets[targets != -100], reduction="none")


def batches(done: Run, how: Recipe, rows: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What was fed, one list of parts per optimizer step."""
    parts_per_epoch = -(-rows // how.part)
    for start in range(0, len(done.fed), parts_per_epoch):
        epoch = done.fed[start : start + parts_per_epoch]
        for first in range(0, len(epoch), how.accumulation):
            yield epoch[first : first + how.accumulation]


def schedule(how: Recipe, optimizer: torch.optim.Optimizer, rows: int) -> Any:
    """What a recipe's schedule is named after; to be stepped once a batch."""
    steps = total_steps(how, rows)
    if how.schedule == "step":
        return StepLR(optimizer, how.steps_per_epoch(rows), how.gamma)
    name = how.schedule if how.schedule != "constant" else "constant_with_warmup"
    return get_scheduler(name, optimizer, math.ceil(how.warmup * steps), steps)


def by_loop(model: Any, done: Run, how: Recipe, rows: int, dtype: torch.dtype | None = None) -> list[dict[str, float]]:
    """Train ``model`` on the same batches with nothing but PyTorch; loss and rate of every step."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": how.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=how.learning_rate,
    )
    scheduler = schedule(how, optimizer, rows)
    curve = []
    model.train()
    for parts in batches(done, how, rows):
        summed, count = torch.zeros(()), 0
        for ids, labels in parts:
            # a context of its own for every forward pass, as every step has other weights
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                tokens = token_losses(model, ids, labels)
            summed, count = summed + tokens.sum(), count + len(tokens)
        loss = summed / count
        loss.backward()
        if how.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), how.max_grad_norm)
        curve.append({"loss": loss.item(), "learning_rate": scheduler.get_last_lr()[0]})
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return curve


def read_curve(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]


def start(folder: Path, how: Recipe, *, adapter: Path | None = None, compute: torch.dtype = torch.float32) -> ChatModel:
    """A saved model, loaded to be trained."""
    name = None if adapter is None else str(adapter)
    return load_for_training(str(folder), adapter=name, device="cpu", compute=compute, recipe=how)


CLIPPED_AND_DECAYED = {"max_grad_norm": 0.1, "weight_decay": 0.1, "schedule": "linear", "warmup": 0.3}
RECIPES = {
    "constant": {"warmup": 0.34},
    "capped logits": {"kind": "gemma2"},
    "cosine": {"schedule": "cosine", "warmup": 0.1},
    "paper's kind": {"schedule": "step", "gamma": 0.5, "epochs": 3},
    "in parts, clipped, decayed": {"batch": 6, "accumulation": 3, **CLIPPED_AND_DECAYED},
    "by steps": {"epochs": None, "steps": 4},
    "activations anew": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_training_is_the_plain_loop(tmp_path, changes):
    how, kind = recipe(**{**changes, "kind": None}), changes.get("kind", "llama_tied")
    done, oracle = run(tmp_path, how, model=chat_model(kind), count=10), tiny_model(kind)
    wanted, curve = by_loop(oracle, done, how, 10), read_curve(tmp_path)
    assert [point["step"] for point in curve] == list(range(1, total_steps(how, 10) + 1))
    assert [point["loss"] for point in curve] == pytest.approx([point["loss"] for point in wanted], rel=1e-4)
    assert [point["learning_rate"] for point in curve] == pytest.approx([point["learning_rate"] for point in wanted])
    assert (done.record.first_loss, done.record.last_loss) == (curve[0]["loss"], curve[-1]["loss"])
    for name, value in oracle.state_dict().items():
        # Adam moves a weight by the rate even where its gradient is rounding alone, so some differ by more than that
        assert torch.quantile((done.weights[name] - value).abs().flatten(), 0.99) < 1e-4, name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_rows_computed_by_length_train_as_a_whole_batch(tmp_path, accumulation, monkeypatch):
    how = recipe(batch=8, accumulation=accumulation)
    whole = run(tmp_path / "whole", how, count=16)
    monkeypatch.setattr(import_module("ripcurrent.finetune._trainer"), "PART_TOKENS", 300)
    parted = run(tmp_path / "parted", how, count=16)
    assert len(parted.fed) > len(whole.fed)
    assert sum(ids.numel() for ids, _ in parted.fed) < sum(ids.numel() for ids, _ in whole.fed)
    bearing = [sum(int((labels != -100).sum()) for _, labels in one.fed) for one in (whole, parted)]
    assert bearing[0] == bearing[1]
    curves = [[point["loss"] for point in read_curve(tmp_path / name)] for name in ("whole", "parted")]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    for name, value in whole.weights.items():
        assert torch.quantile((parted.weights[name] - value).abs().flatten(), 0.99) < 1e-4, name


@pytest.mark.parametrize("kind", ["llama_untied", "qwen3", "gemma2", "gemma3", "mistral", "phi3"])
def test_the_loss_is_the_mean_over_the_batchs_tokens_for_every_family(tmp_path, kind):
    how = recipe(batch=10, epochs=1)
    done = run(tmp_path, how, model=chat_model(kind))
    ids, labels = done.fed[0]
    assert done.record.first_loss == pytest.approx(token_losses(tiny_model(kind), ids, labels).mean().item(), rel=1e-4)


def test_the_seed_reaches_the_order_and_the_same_seed_gives_the_same_weights(tmp_path):
    encoded = encoded_rows(10)
    first, again, other = (run(tmp_path / name, recipe(), seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert same(first.weights, again.weights)
    assert not same(first.weights, other.weights)
    order, others = first.orders(encoded), other.orders(encoded)
    assert order == again.orders(encoded)
    assert order[:10] != order[10:], "each epoch has an order of its own"
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    # neighbouring seeds must not share orders, one epoch apart
    assert len({tuple(order[:10]), tuple(order[10:]), tuple(others[:10]), tuple(others[10:])}) == 4


def test_bfloat16_computes_products_and_leaves_float32_masters(tmp_path):
    model, seen, how = chat_model(), set(), recipe(learning_rate=1e-2)
    model.model.model.layers[0].mlp.up_proj.register_forward_hook(
        lambda module, _, output: seen.add((module.weight.dtype, output.dtype)) if module.training else None
    )
    done = run(tmp_path, how, model=model, compute=torch.bfloat16)
    assert seen == {(torch.float32, torch.bfloat16)}
    assert {weight.dtype for weight in done.weights.values()} == {torch.float32}
    # weights that a step changed are cast anew: with stale ones the loss would stay where it began
    oracle = tiny_model("llama_tied")
    losses = [point["loss"] for point in by_loop(oracle, done, how, 10, torch.bfloat16)]
    assert done.record.last_loss == pytest.approx(losses[-1], rel=0.01)
    assert losses[-1] < 0.9 * losses[0]


def test_a_lora_trains_its_own_matrices_only_and_loads_on_its_base(tmp_path):
    folder = save_tiny(tmp_path / "base", "llama_tied")
    how = recipe(method="lora", r=4, learning_rate=1e-2)
    model = start(folder, how)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    done = run(tmp_path / "run", how, model=model)
    adapter = tmp_path / "run" / "adapter"
    assert done.record.kind == "adapter"
    assert done.record.trained_parameters == sum(
        4 * (layer.in_features + layer.out_features)
        for name, layer in tiny_model("llama_tied").named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head"
    )
    base = load_model(folder, device="cpu", dtype="float32")
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())
    ids = torch.as_tensor(encoded_rows(1)[0].tokens)[None].long()
    with torch.no_grad():
        trained = model.model.eval()(input_ids=ids).logits
        loaded = load_model(folder, adapter=adapter, device="cpu", dtype="float32").model(input_ids=ids).logits
        assert torch.allclose(trained, loaded, atol=1e-5)
        assert not torch.allclose(loaded, base.model(input_ids=ids).logits, atol=1e-2)
    assert {value.dtype for value in load_file(adapter / "adapter_model.safetensors").values()} == {torch.float32}
    assert start(folder, how, compute=torch.bfloat16).dtype == torch.bfloat16, "the frozen base's"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not (adapter / "README.md").exists()
    # on top of that adapter, the next LoRA is merged with it into a whole model
    again = start(folder, how, adapter=adapter, compute=torch.bfloat16)
    assert run(tmp_path / "second", how, model=again, compute=torch.bfloat16).record.kind == "model"
    with torch.no_grad():
        whole = load_model(tmp_path / "second" / "model", device="cpu", dtype="float32").model(input_ids=ids).logits
        assert not torch.allclose(whole, loaded, atol=1e-3)


@pytest.mark.parametrize("target", ["lm_head", "nowhere_proj"])
def test_a_lora_on_the_head_or_on_no_module_is_refused(target, tmp_path):
    """The loss takes the head's own weight: its matrices would never be trained."""
    folder = save_tiny(tmp_path / "base", "llama_untied")
    how = recipe(method="lora", r=4, target=["q_proj", "lm_head"] if target == "lm_head" else [target])
    with pytest.raises(RipcurrentError, match=f"cannot be trained so.*{target}"):
        run(tmp_path / "run", how, model=start(folder, how))


def test_a_trained_model_is_its_base_but_for_the_weights(tmp_path):
    """Its defaults of generation contradict each other, which transformers saves only when they are its own."""
    model, tokenizer = tiny_model("llama_tied"), tiny_tokenizer()
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    model.generation_config.eos_token_id = [2, 0]
    folder, result, how = tmp_path / "base", tmp_path / "model", recipe()
    model.save_pretrained(folder)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "", "rag": ""}
    tokenizer.save_pretrained(folder)
    generation = json.loads((folder / "generation_config.json").read_text()) | {"temperature": 0.6, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    # with the faster attention of CPUs, of which nothing stays
    chosen = start(folder, how, compute=torch.bfloat16)
    assert chosen.model.config._attn_implementation != "sdpa"
    done = run(tmp_path, how, model=chosen, count=4, compute=torch.bfloat16)
    for name in ("config.json", "chat_template.jinja", "tokenizer.json"):
        assert (result / name).read_text() == (folder / name).read_text(), name
    kept = json.loads((result / "generation_config.json").read_text())
    assert (kept["eos_token_id"], kept.get("pad_token_id")) == ([2, 0], None)
    again = load_model(result, device="cpu", dtype="float32")
    assert set(again.tokenizer.chat_template) == {"default", "tool_use", "rag"}
    assert same(again.model.state_dict(), done.weights)


@pytest.mark.parametrize("at", ["loss", "weight"])
def test_a_loss_or_a_weight_that_is_no_number_stops_the_run(at, tmp_path):
    model = chat_model()
    weight = model.model.requires_grad_(True).model.norm.weight
    if at == "loss":
        weight.data[0] = float("nan")
    else:
        weight.register_hook(lambda gradient: gradient * float("nan"))
    says = "the loss of step 1 is nan" if at == "loss" else "weights are not finite"
    with pytest.raises(RipcurrentError, match=says) as caught:
        run(tmp_path, recipe(epochs=None, steps=1), model=model)
    assert caught.value.code == ExitCode.NOT_MEASURED
    assert (read_curve(tmp_path)[0]["loss"] is None) == (at == "loss")


@pytest.mark.parametrize(
    ("losses", "batch", "diverges"),
    [
        ([2.0, 6.3, 6.2, 6.3], 20, True),
        ([2.0, 1.0, 0.5, 9.0], 8, False),
        ([2.0, 6.1, 6.2, 5.9], 8, False),
        # of small batches one easy row first is no reference for rows of another loss
        ([0.3, 1.2, 1.0, 1.25] * 30, 1, False),
        ([0.3] + [1.0 + step / 100 for step in range(60)], 1, False),
        ([1.0] + [9.0 + step / 10 for step in range(24)], 1, True),
        ([1.0] + [6.5 + step / 10 for step in range(12)], 2, True),
        ([1.0] + [6.5 + step / 10 for step in range(11)], 2, False),
    ],
)
def test_what_diverges(losses, batch, diverges):
    for step in range(1, len(losses)):
        require_converging(losses[:step], batch)
    says = pytest.raises(RipcurrentError, match=f"Training diverges.*step {len(losses)}")
    with says if diverges else nullcontext():
        require_converging(losses, batch)


def test_nothing_is_sent_anywhere(tmp_path, monkeypatch, no_network, capfd):
    for name in ("CI", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    sent: list[Any] = []
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *a, **k: sent.append(a))
    for name, how in (("full", recipe()), ("lora", recipe(method="lora", r=2))):
        run(tmp_path / name, how, checkpoint_minutes=0)
    assert sent == no_network == []
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_trackers_are_passed_through_and_named_when_they_cannot_be(tmp_path, monkeypatch):
    class Tracker(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            told.extend([logs["loss"]] if "loss" in logs else [])

    told: list[float] = []
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mine", Tracker)
    run(tmp_path / "a", recipe(epochs=1), report_to=["mine"])
    assert len(told) == 3
    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: False)
    with pytest.raises(RipcurrentError, match="wandb"):
        run(tmp_path / "c", recipe(), report_to=["wandb"])


def test_a_full_disk_is_one_error_and_keeps_no_part_of_a_checkpoint(tmp_path, monkeypatch):
    """Of torch.save it is a plain error; the optimizer's state is two thirds of a checkpoint."""
    saved = torch.save

    def full(value: Any, path: Any, *rest: Any, **named: Any) -> None:
        if str(path).endswith("optimizer.pt"):
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
        saved(value, path, *rest, **named)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RipcurrentError, match=r"cannot be written to .*inline_container"):
        run(tmp_path, recipe(epochs=2), checkpoint_minutes=0)
    assert not list(tmp_path.rglob("checkpoint-*"))

    def refuse(*_: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(_train, "save_result", refuse)
    with pytest.raises(RipcurrentError, match=r"cannot be written to .*No space left") as caught:
        run(tmp_path, recipe(epochs=1))
    assert "last checkpoint" in caught.value.hint
