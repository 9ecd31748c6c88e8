"""Unsloth (unsloth_zoo 2026.8.13): texts, of which `train_on_responses_only` trains what follows a marker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ripcurrent.data._formats import Unusable, plain_text
from ripcurrent.data._render import default_template, rendered, template_errors
from ripcurrent.data._spec import as_list
from ripcurrent.data._trained_tokens import LabelledTokens, Tokenized, TrainedTokens
from ripcurrent.data._trl import are_turns
from ripcurrent.data._types import Fields
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Unsloth(TrainedTokens):
    """Unsloth's fine-tuning with `train_on_responses_only`; messages become texts by the model's chat template."""

    trainer = "unsloth"

    instruction_part: str | None = None
    """What opens a question."""
    response_part: str | None = None
    """What opens an answer: it is trained from behind this up to the next question."""
    last_response_only: bool = False
    """Train the last answer alone."""
    dataset_text_field: str = "text"
    """Column of the text."""

    def label(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
        marks = [
            list(tokenizer(part, add_special_tokens=False)["input_ids"])
            for part in (self.instruction_part, self.response_part)
            if part
        ]
        if len(marks) < 2 or not all(marks):
            raise RipcurrentError(
                "Unsloth finds answers by two texts, instruction_part and response_part, and one of them is missing.",
                "Name both as in the training, or as Unsloth prints them: "
                '--trainer \'unsloth,instruction_part="<|im_start|>user\\n",response_part="<|im_start|>assistant\\n"\'',
            )
        ids, weights = self._tokens(fields, tokenizer, max_tokens)
        found = list(_answers(ids, *marks))
        trained = {place for answer in (found[-1:] if self.last_response_only else found) for place in answer}
        weights = [weight if place in trained else 0.0 for place, weight in enumerate(weights)]
        if not any(weights):
            raise Unusable("dropped_by_trainer")
        return LabelledTokens(ids[:max_tokens], weights[:max_tokens])

    def _tokens(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
        """A row as tokens; a text without the tokenizer's beginning where it or the chat template has one."""
        if (ids := fields.get("input_ids")) is not None:
            return Tokenized().label({"input_ids": ids, "labels": fields.get("labels", ids)}, tokenizer, 2**40)
        text = fields.get(self.dataset_text_field)
        if self.dataset_text_field not in fields and are_turns(fields.get("messages", "")):
            with template_errors(tokenizer):
                tools = as_list(fields.get("tools"))
                text = rendered(tokenizer, fields["messages"], generation_prompt=False, tools=tools)
        elif self.dataset_text_field not in fields or {"prompt", "completion"} <= set(fields):
            raise RipcurrentError(
                f"Of Unsloth's rows those with {self.dataset_text_field}, messages or tokens are held, "
                f"and these have {', '.join(fields)}.",
                "Name the column of the text: --trainer unsloth,dataset_text_field=COLUMN",
            )
        bos = tokenizer.bos_token
        begun = bos is not None and (plain_text(text).startswith(bos) or bos in (default_template(tokenizer) or ""))
        cut = {"truncation": True, "max_length": max_tokens, "add_special_tokens": not begun}
        ids = list(tokenizer(plain_text(text), **cut)["input_ids"])
        return LabelledTokens(ids, [1.0] * len(ids))


def _answers(ids: Sequence[int], question: Sequence[int], answer: Sequence[int]) -> Iterator[range]:
    """Places behind each answer's marker up to the next question's, or to the end."""
    place = 0
    while place < len(ids):
        if list(ids[place : place + len(answer)]) == answer:
            start = end = place + len(answer)
            while end < len(ids) - 1 and list(ids[end : end + len(question)]) != question:
                end += 1
            if start < len(ids):
                ends = end == len(ids) - 1
                yield range(start, len(ids) if ends else end)
            # as in Unsloth, the token behind a question's marker opens no answer
            place = end + len(question)
        place += 1
