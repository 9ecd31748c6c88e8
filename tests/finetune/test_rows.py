"""The trained tokens are the scored ones: ids and labels of every batch are those of the encoded rows."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from ripcurrent.data import Completion, EncodedRow, Message, Row, encode_rows
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.finetune import _head_loss
from ripcurrent.finetune._head_loss import _HeadLoss
from ripcurrent.finetune._trainer import IGNORED, build_training_set, make_trainer
from ripcurrent.gradients import LogitTransform
from tests.data.chat_tokenizers import FAMILIES, build
from tests.finetune.runs import chat_model, encoded_rows, recipe, rows, run
from tests.finetune.test_train import token_losses
from tests.gradients.oracle import random_rows
from tests.models.tiny import tiny_model


def conversations() -> list[Row]:
    """One and more turns, one that is excluded from training, one that is empty, a document."""
    turns: list[tuple[str, ...]] = [
        ("Tell me of the tide.", "It goes out.\n- twice a day"),
        ("One?", "1.", "Two?", "2, é 🌊 and so on."),
        ("The harbour?", "  It is quiet.  "),
        ("A?", "left out", "B?", "kept"),
        ("Hm?", ""),
    ]
    made = []
    for number, turn in enumerate(turns):
        said = [Message("assistant" if at % 2 else "user", text, text != "left out") for at, text in enumerate(turn)]
        made.append(Row(number, str(number), tuple(said), None, {}))
    return [*made, Row(len(made), "text", (), "The boats lay still in the morning light.", {})]


def unpadded(ids: torch.Tensor, labels: torch.Tensor, rows: list[EncodedRow]) -> list[int]:
    """Which rows a batch has, each checked token by token; what is beyond a row must bear no loss."""
    found = []
    for line, marks in zip(ids.tolist(), labels.tolist(), strict=True):
        length = max(place for place, mark in enumerate(marks) if mark != IGNORED) + 1
        (row,) = [row for row in rows if row.tokens.tolist() == line[:length]]
        expected = [token if loss else IGNORED for token, loss in zip(row.tokens, row.loss_mask, strict=True)]
        assert marks[:length] == expected
        assert marks[length:] == [IGNORED] * (len(marks) - length)
        found.append(row.index)
    return found


@pytest.mark.parametrize(
    ("family", "turns", "max_tokens"),
    [
        *((family, "all", 1024) for family in FAMILIES),
        *((FAMILIES[0], *how) for how in (("all", 20), ("last", 1024), ("last", 20))),
    ],
)
def test_the_trainers_own_batches_hold_the_encoded_rows(tmp_path, family, turns, max_tokens):
    tokenizer = build(family)
    encoded = list(encode_rows(conversations(), tokenizer, max_tokens=max_tokens, trained=Completion(turns=turns)))
    scored = [row for row in encoded if row.status == "ok"]
    data = build_training_set(encoded)
    assert data.about.left_out
    assert data.about.loss_tokens == sum(row.response_tokens for row in scored)
    trainer = make_trainer(
        chat_model(tokenizer=tokenizer), data, recipe(batch=3), tmp_path, seed=0, compute=torch.float32
    )
    seen: list[int] = []
    for batch in trainer.get_train_dataloader():
        seen += unpadded(batch["input_ids"], batch["labels"], scored)
        lengths = (batch["labels"] != IGNORED).long().argsort(dim=1, stable=True)[:, -1] + 1
        assert batch["attention_mask"].sum(dim=1).tolist() == lengths.tolist()
    assert sorted(seen) == [row.index for row in scored]


def test_every_row_is_fed_once_an_epoch_also_of_sets_smaller_than_a_batch(tmp_path):
    encoded = encoded_rows(10)
    done = run(tmp_path, recipe(batch=4, epochs=2))
    order = [index for ids, labels in done.fed for index in unpadded(ids, labels, encoded)]
    assert [len(ids) for ids, _ in done.fed] == [4, 4, 2] * 2
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    for count in (1, 3):
        assert [len(ids) for ids, _ in run(tmp_path / str(count), recipe(batch=20), count=count).fed] == [count, count]


@pytest.mark.parametrize("family", FAMILIES)
def test_on_one_clean_turn_trl_itself_would_train_the_same_tokens(tmp_path, family):
    """Conversational prompt-completion data, as TRL tokenises and masks it."""
    tokenizer = build(family)
    plain = rows(5)
    said = {"prompt": ("user", [row.prompt for row in plain]), "completion": ("assistant", [r.response for r in plain])}
    columns = {key: [[{"role": role, "content": text}] for text in texts] for key, (role, texts) in said.items()}
    trainer = SFTTrainer(
        model=chat_model(tokenizer=tokenizer).model,
        args=SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", completion_only_loss=True),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
    )
    ours = build_training_set(encode_rows(plain, tokenizer)).dataset
    assert trainer.train_dataset["input_ids"][:] == ours["input_ids"][:]
    assert trainer.train_dataset["labels"][:] == ours["labels"][:]


def bare_row(index: int, mask: list[bool], status: Any = "ok") -> EncodedRow:
    tokens = np.arange(len(mask), dtype=np.int32)
    return EncodedRow(index, status, tokens, np.array(mask, dtype=np.bool_), None, False, 0, 0, 0, 0)


def test_a_row_or_a_set_that_is_all_masked_is_an_error_before_training():
    for mask in ([False, False, False], [True, False]):
        with pytest.raises(RipcurrentError, match="Row 3 has no token that bears loss"):
            build_training_set([bare_row(0, [False, True]), bare_row(3, mask)])
    with pytest.raises(RipcurrentError, match=r"nothing to train on.*2 no_response, 1 too_long") as caught:
        build_training_set([bare_row(0, [], status) for status in ("no_response", "too_long", "no_response")])
    assert caught.value.code == ExitCode.NOT_MEASURED
    with pytest.raises(RipcurrentError, match="it has no rows"):
        build_training_set([])
    with pytest.raises(RipcurrentError, match="Tokens of row 1 differ in weight"):
        build_training_set(random_rows(np.random.default_rng(0), 2))


def test_the_hash_is_of_tokens_and_labels_in_order():
    first, second = bare_row(0, [False, True]), bare_row(1, [False, False, True])

    def hashed(*rows: EncodedRow) -> str:
        return build_training_set(rows).about.tokens_sha256

    assert hashed(bare_row(5, [False, True]), second) == hashed(first, second)
    assert hashed(second, first) != hashed(first, second)
    assert hashed(first, bare_row(1, [False, True, True])) != hashed(first, second)


@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.5, 3.0)], ids=["plain", "scaled and capped"])
def test_loss_and_gradients_are_autograds(transform, monkeypatch):
    monkeypatch.setattr(_head_loss, "POSITIONS", 4)  # 11 positions in three chunks
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((11, 6), (17, 6))]
    targets = torch.randint(17, (11,), generator=generator)
    found = _HeadLoss.apply(*leaves, targets, transform)
    gradients = torch.autograd.grad(found * 0.25, leaves)
    logits = torch.nn.functional.linear(*leaves) * transform.factor
    if transform.softcap is not None:
        logits = torch.tanh(logits / transform.softcap) * transform.softcap
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(found, wanted)
    for one, other in zip(gradients, torch.autograd.grad(wanted * 0.25, leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_gradients_are_near_float32_ones_and_have_the_masters_type():
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(40, 32, generator=generator), torch.randn(50, 32, generator=generator) / 6
    targets = torch.randint(50, (40,), generator=generator)
    leaves = [hidden.requires_grad_(True), weight.requires_grad_(True)]
    exact = torch.autograd.grad(_HeadLoss.apply(hidden, weight, targets, LogitTransform()), leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = _HeadLoss.apply(hidden, weight, targets, LogitTransform())
    for one, other in zip(torch.autograd.grad(loss, leaves), exact, strict=True):
        assert one.dtype == torch.float32
        assert 0 < (one - other).norm() / other.norm() < 0.01


def test_a_head_that_is_not_understood_is_trained_by_the_models_own_way(tmp_path, monkeypatch):
    def refuse(causal: object) -> LogitTransform:
        raise RipcurrentError("not understood")

    monkeypatch.setattr(_head_loss, "find_logit_transform", refuse)
    monkeypatch.setattr(import_module("ripcurrent.finetune._trainer"), "PART_TOKENS", 10**6)
    done = run(tmp_path, recipe(batch=10, epochs=1), model=chat_model("gemma2"))
    ids, labels = done.fed[0]
    expected = token_losses(tiny_model("gemma2"), ids, labels).mean().item()
    assert done.record.first_loss == pytest.approx(expected, rel=1e-4)
