"""OpenAI's fine-tuning files: every assistant message but those of weight 0, in the local model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ripcurrent.data._encode import encode
from ripcurrent.data._formats import FORMATS, Unusable, tool_definitions
from ripcurrent.data._trained_tokens import LabelledTokens, TrainedTokens
from ripcurrent.data._types import Fields, Row
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class OpenAI(TrainedTokens):
    """OpenAI's supervised fine-tuning. Its tokens are not known: these are the local model's, of the same turns."""

    trainer = "openai"

    def label(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
        if "messages" not in fields:
            raise RipcurrentError(
                f"OpenAI reads messages, and the rows have {', '.join(fields)}.",
                "Write them as for the fine-tuning, or score them as they are: --trainer completion",
            )
        given = fields["messages"]
        turns = [turn for turn in given if isinstance(turn, Mapping)] if isinstance(given, list) else []
        allowed = all(
            turn.get("weight") in (None, 0, 1) and not {"loss", "train", "training"} & set(turn) for turn in turns
        )
        if not turns or not allowed or turns[-1].get("role") != "assistant":
            # OpenAI refuses the file
            raise Unusable("invalid_conversation")
        messages = FORMATS["openai"].parse({"messages": given})
        assert not isinstance(messages, str)
        row = Row(0, "", messages, None, fields, tools=tool_definitions(fields))
        encoded = encode(row, tokenizer, max_tokens=max_tokens)
        if encoded.status != "ok":
            raise Unusable(encoded.status)
        return LabelledTokens(encoded.tokens.tolist(), encoded.loss_mask.astype(float).tolist())
