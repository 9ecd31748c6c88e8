"""The trained tokens are the scored ones: ids and labels of every batch are those of the encoded rows."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.data import Completion, EncodedRow, Message, Row, encode_rows, trained_tokens
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.finetune import _head_loss
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


@pytest.mark.parametrize("family", FAMILIES)
def test_on_one_clean_turn_trl_itself_would_train_the_same_tokens(family):
    """Conversational prompt-completion data; TRL's policy is held against TRL in the tests of data."""
    tokenizer = build(family)
    for row, ours in zip(rows(5), encoded_rows(5, tokenizer), strict=True):
        asked, answer = ([{"role": one.role, "content": one.content}] for one in row.messages)
        theirs = trained_tokens("trl").label({"prompt": asked, "completion": answer}, tokenizer, 1024)
        assert (theirs.ids, theirs.weights) == (ours.tokens.tolist(), ours.loss_mask.tolist())


def bare_row(index: int, mask: list[bool], status: Any = "ok") -> EncodedRow:
    tokens = np.arange(len(mask), dtype=np.int32)
    return EncodedRow(index, status, tokens, np.array(mask, dtype=np.bool_), None, False, 0, 0)


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


def test_a_head_that_is_not_understood_is_trained_by_the_models_own_way(tmp_path, monkeypatch):
    def refuse(causal: object) -> LogitTransform:
        raise RipcurrentError("not understood")

    monkeypatch.setattr(_head_loss, "find_logit_transform", refuse)
    monkeypatch.setattr(import_module("ripcurrent.finetune._trainer"), "PART_TOKENS", 10**6)
    done = run(tmp_path, recipe(batch=10, epochs=1), model=chat_model("gemma2"))
    ids, labels = done.fed[0]
    expected = token_losses(tiny_model("gemma2"), ids, labels).mean().item()
    assert done.record.first_loss == pytest.approx(expected, rel=1e-4)
