"""The factories that other rooms' tests stand on."""

from __future__ import annotations

import pytest
import torch

from tests.models.tiny import KINDS, VOCAB_SIZE, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_reproducible_and_has_no_trivial_parameter(kind: str) -> None:
    model, again, other = tiny_model(kind), tiny_model(kind), tiny_model(kind, seed=1)
    for (name, a), b, c in zip(model.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert not torch.equal(a, c), name
        assert a.std() > 0.01, f"{name} is constant: a formula that forgets it would pass"
    logits = model(torch.tensor([[5, 6, 7, 8]])).logits
    assert logits.shape == (1, 4, VOCAB_SIZE)
    assert logits.std() > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_keeps_rotary_buffers_in_float32(kind: str) -> None:
    model = tiny_model(kind, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            assert buffer.dtype == torch.float32


def test_tokenizer_round_trips_any_text_through_the_template() -> None:
    tokenizer = tiny_tokenizer()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Wie geht's?\n\u2603"}, {"role": "assistant", "content": "Sure, here is"}],
        tokenize=False,
    )
    tokens = tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokens) == text
    assert max(tokens) < VOCAB_SIZE == len(tokenizer)
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == tokens[-2]
