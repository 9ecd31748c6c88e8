"""Batched decoding gives the tokens of a plain loop over one prompt at a time, whatever batch and shared beginning."""

from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel

from ripcurrent.evaluate import decode_greedily, read_prefix
from tests.models.tiny import KINDS, tiny_model

SHARED = [5, 9, 31, 77, 8]
PROMPTS = [[*SHARED, *rest] for rest in ([40], [12, 13, 14], [90, 91, 92, 93, 94, 95, 96], [7, 7], [201, 3, 50, 60])]
NEW = 14


@torch.inference_mode()
def alone(model: PreTrainedModel, prompt: Sequence[int], stops: set[int]) -> tuple[list[int], bool]:
    """Oracle: the whole sequence read anew for every token."""
    ids = list(prompt)
    for _ in range(NEW):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in stops:
            return ids[len(prompt) :], True
        ids.append(token)
    return ids[len(prompt) :], False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [True, False])
def test_a_batch_says_what_each_prompt_alone_gets(kind, share):
    model = tiny_model(kind)
    free = [alone(model, prompt, set())[0] for prompt in PROMPTS]
    # tokens that some answers meet early, others late or never: rows leave the batch at different steps
    stops = {free[0][2], free[1][5], free[3][0]}
    prefix = read_prefix(model, SHARED if share else [])
    # one prefix serves several batches
    for batch in (PROMPTS, PROMPTS[:2]):
        decoded = decode_greedily(model, batch, max_new_tokens=NEW, stops=stops, prefix=prefix, pad=2)
        assert decoded == [alone(model, prompt, stops) for prompt in batch]


def test_windows_share_nothing():
    assert read_prefix(tiny_model("llama_tied"), SHARED) is not None
    assert read_prefix(tiny_model("gemma3"), SHARED) is None
