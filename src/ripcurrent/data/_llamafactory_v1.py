"""LLaMA-Factory v1: messages of typed parts, each answer trained in the model's own chat template by its weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ripcurrent.data._formats import Unusable, plain_text
from ripcurrent.data._render import TemplateMismatch, check_tokenizer, rendered, template_errors
from ripcurrent.data._spec import from_json
from ripcurrent.data._trained_tokens import LabelledTokens
from ripcurrent.data._types import Fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NOTHING = 1e-6
"""Up to this weight an answer is not trained."""


def label_v1(fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
    """A row's tokens; its answers, which v1 trains as rows of their own, as one where they have the same beginning."""
    check_tokenizer(tokenizer, chat=True)
    messages, tools = fields.get("messages"), from_json(fields.get("tools"))
    if not isinstance(messages, list) or not all(isinstance(one, Mapping) for one in messages):
        raise Unusable("invalid_conversation")
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    special.sort(key=len, reverse=True)
    turns = [_turn(message, special) for message in messages]
    tools = tools if isinstance(tools, list) or not tools else [tools]

    def tokens(end: int, thinks: bool, *, opens: bool) -> list[int]:
        with template_errors(tokenizer):
            text = rendered(tokenizer, turns[:end], generation_prompt=opens, tools=tools, enable_thinking=thinks)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    ids: list[int] = []
    weights: list[float] = []
    for end, (turn, message) in enumerate(zip(turns, messages, strict=True)):
        weight = message.get("loss_weight", 1.0)
        if turn["role"] != "assistant" or weight <= _NOTHING:
            continue
        thinks = "reasoning_content" in turn
        before, through = tokens(end, thinks, opens=True), tokens(end + 1, thinks, opens=False)
        if through[: len(before)] != before or before[: len(ids)] != ids:
            raise TemplateMismatch("it renders what is before an answer otherwise than with the answer")
        weights += [0.0] * (len(before) - len(ids)) + [float(weight)] * (len(through) - len(before))
        ids = through
    if not ids:
        raise Unusable("no_loss_tokens")
    if not any(weights[:max_tokens]):
        raise Unusable("dropped_by_trainer")
    return LabelledTokens(ids[:max_tokens], weights[:max_tokens])


def _turn(message: Fields, special: list[str]) -> dict[str, Any]:
    """A message as chat templates read it, with special tokens in its text broken by a space of no width."""
    texts = {"text": "", "reasoning": ""}
    calls = []
    parts = message.get("content")
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise Unusable("invalid_conversation")
    for part in parts:
        kind, value = part.get("type"), plain_text(part.get("value"))
        held = [token for token in special if token in value and len(token) > 1]
        if kind == "tool_call":
            call = from_json(value)
            if held or not isinstance(call, Mapping) or not {"name", "arguments"} <= set(call):
                raise Unusable("invalid_conversation")
            named = {"name": call["name"], "arguments": call["arguments"]}
            calls.append({"type": "function", "function": named})
        elif kind in texts:
            for token in held:
                value = value.replace(token, f"{token[0]}\u200b{token[1:]}")
            texts[kind] += value
        else:
            raise Unusable("not_text")
    turn: dict[str, Any] = {"role": message.get("role"), "content": texts["text"]}
    turn |= {"tool_calls": calls} if calls else {}
    return turn | ({"reasoning_content": texts["reasoning"]} if texts["reasoning"] else {})
