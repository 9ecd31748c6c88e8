"""TRL's `SFTTrainer` (1.16.0): its preparation of a dataset, row by row; and Unsloth's (unsloth_zoo 2026.8.13)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

from ripcurrent.data._formats import LONE_SURROGATE, Unusable, mappings, plain_text
from ripcurrent.data._render import (
    TemplateMismatch,
    check_tokenizer,
    dated_template,
    default_template,
    rendered,
    template_errors,
)
from ripcurrent.data._spec import as_list, facts_of
from ripcurrent.data._trained_tokens import LabelledTokens, Tokenized, TrainedTokens, unread
from ripcurrent.data._types import Fields
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TURNS = ("prompt", "completion", "chosen", "rejected", "messages")
_FACTS = facts_of("trl")
_KNOWN = _FACTS["templates"]
"""Templates without `{% generation %}` that TRL exchanges for training, by SHA-256: what stands before a trained turn
("": nothing, its own header is trained too), and what TRL's own template renders otherwise."""


class Trl(TrainedTokens):
    """TRL's `SFTTrainer`.

    Rows are read as `load_dataset` reads a JSON file; `Dataset.from_list` fills in nulls that a template may print.
    """

    assistant_only_loss: bool = False
    """Train the assistant's turns alone, which the chat template has to mark with `{% generation %}`."""
    completion_only_loss: bool | None = None
    """Train the completion alone; without a value, wherever rows have a prompt and a completion."""
    dataset_text_field: str = "text"
    """Column of plain text."""
    truncation_mode: Literal["keep_start", "keep_end"] = "keep_start"
    """Which end of a long row is kept."""
    eos_token: str | None = None
    """Token that ends texts and completions, instead of the tokenizer's own."""
    packing: bool = False
    """Put several rows into one; each keeps its start."""
    packing_strategy: Literal["bfd"] = "bfd"
    """How; other strategies split rows, which no score of a row knows."""

    def label(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
        if "image" in fields or "images" in fields:
            raise RipcurrentError(
                f"The rows have a column {'image' if 'image' in fields else 'images'}, and pictures are not scored.",
                "Scan a copy without that column; TRL refuses it too, unless the model is a vision-language model.",
            )
        if self.eos_token is not None and self.eos_token not in tokenizer.get_vocab():
            raise RipcurrentError(
                f"--trainer trl: eos_token {self.eos_token!r} is not in the vocabulary of the model.",
                "Name a token that is, or leave the option out.",
            )
        if self.assistant_only_loss and not any(name in fields and are_turns(fields[name]) for name in _TURNS):
            raise RipcurrentError(
                "--trainer trl,assistant_only_loss=true: the rows are no conversations, and TRL refuses them.",
                "Leave the option out, or give the turns as messages with a role and a content.",
            )
        if "input_ids" in fields:
            ids, trained = self._tokenized(fields, tokenizer)
        else:
            ids, trained = self._prepared(_chatml(fields), tokenizer)
        kept = slice(max_tokens) if self.packing or self.truncation_mode == "keep_start" else slice(-max_tokens, None)
        if not any(trained[kept]):
            raise Unusable("dropped_by_trainer")
        return LabelledTokens(ids[kept], [float(one) for one in trained[kept]])

    def _tokenized(self, fields: Fields, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
        """Rows of tokens: their labels, or what their masks leave."""
        names = ["completion_mask"] * bool(self.completion_only_loss) + ["assistant_masks"]
        masks = [fields[name] for name in names if name in fields]
        ids = fields["input_ids"]
        if not isinstance(ids, list) or not all(isinstance(mask, list) and len(mask) == len(ids) for mask in masks):
            raise Unusable("invalid_conversation")
        masked = [one if all(bits) else -100 for one, *bits in zip(ids, *masks, strict=True)]
        read = {"seq_lengths": fields.get("seq_lengths"), "input_ids": ids, "labels": fields.get("labels", masked)}
        ids, weights = Tokenized().label(read, tokenizer, len(ids))
        return ids, [weight > 0 for weight in weights]

    def _prepared(self, fields: Fields, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
        """All tokens of a row, and which of them are trained."""
        if not ("prompt" in fields and "completion" in fields):
            _require_columns(fields, self.dataset_text_field)
        kinds = {are_turns(fields[name]) for name in _TURNS if name in fields}
        needed = "messages" if kinds == {True} else self.dataset_text_field
        if len(kinds) > 1 or ("prompt" not in fields and needed not in fields):
            raise Unusable("invalid_conversation")
        if kinds == {True}:
            render = _Rendering(fields, tokenizer, self)
            if "prompt" not in fields:
                return render.tokens(fields["messages"])
            prompt, _ = render.tokens(fields["prompt"], generation_prompt=True)
            ids, trained = render.tokens([*fields["prompt"], *fields["completion"]])
        else:
            fields = self._with_eos(fields, tokenizer)
            if "prompt" not in fields:
                ids = list(tokenizer(fields[self.dataset_text_field])["input_ids"])
                return ids, [True] * len(ids)
            prompt, ids = tokenizer([fields["prompt"], fields["prompt"] + fields["completion"]])["input_ids"]
            trained = [True] * len(ids)
        if self.completion_only_loss is not False:
            # the completion begins where the prompt alone is tokenized otherwise, or ends
            same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(prompt, ids, strict=False))))
            trained = [one and place >= same for place, one in enumerate(trained)]
        return ids, trained

    def _with_eos(self, fields: Fields, tokenizer: PreTrainedTokenizerBase) -> Fields:
        """The token of the end after a text, or else after a completion, that does not end in it."""
        read = [name for name in (self.dataset_text_field, "prompt", "completion") if name in fields]
        if not all(isinstance(fields[name], str) and not LONE_SURROGATE.search(fields[name]) for name in read):
            raise Unusable("invalid_conversation")
        eos = str(self.eos_token or tokenizer.eos_token or "")
        if not eos:
            raise RipcurrentError(
                f"The tokenizer of {tokenizer.name_or_path} has no token of the end, which TRL puts after a text.",
                "Name one: --trainer trl,eos_token=TOKEN",
            )
        for name in (self.dataset_text_field, "completion"):
            if name in fields and not fields[name].endswith(eos):
                return {**fields, name: fields[name] + eos}
        return fields


class _Rendering:
    """A row's conversations as tokens, in the chat template that TRL uses for it."""

    def __init__(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, options: Trl) -> None:
        check_tokenizer(tokenizer, chat=True)
        self.tokenizer, self.masked = tokenizer, options.assistant_only_loss
        self.header: str | None = None
        tools = fields.get("tools")
        variables = fields.get("chat_template_kwargs", {})
        try:
            tools = json.loads(tools) if isinstance(tools, str) else tools
        except ValueError as error:
            raise Unusable("invalid_conversation") from error
        if not isinstance(variables, Mapping) or set(_FACTS["call"]) & set(variables):
            raise Unusable("invalid_conversation")
        template, original = None, default_template(tokenizer) or ""
        if self.masked and not _GENERATION.search(original):
            template, self.header = _training_template(original)
        self.eos = str(options.eos_token or tokenizer.eos_token or "")
        self.variables = {**({"eos_token": self.eos} if options.eos_token else {}), **variables}
        self.variables |= {"tools": tools, "chat_template": dated_template(tokenizer, template, tools=tools)}

    def text(self, turns: Sequence[Fields]) -> str:
        with template_errors(self.tokenizer):
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, **self.variables))

    def tokens(self, turns: Sequence[Fields], *, generation_prompt: bool = False) -> tuple[list[int], list[bool]]:
        """Ids, and which of them are trained: all, or those that overlap an assistant's turn."""
        marked = self.masked and not generation_prompt
        with template_errors(self.tokenizer):
            batch = self.tokenizer.apply_chat_template(
                turns, return_dict=True, add_generation_prompt=generation_prompt,
                return_assistant_tokens_mask=marked and self.header is None, **self.variables,
            )  # fmt: skip
        ids = list(batch["input_ids"])
        if not marked:
            return ids, [True] * len(ids)
        if self.header is None:
            trained = [bool(one) for one in batch["assistant_masks"]]
        else:
            spans = list(self._spans(turns, self.header))
            offsets = batch.encodings[0].offsets
            trained = [any(start < last and first < end for first, last in spans) for start, end in offsets]
        if not any(trained):
            raise Unusable("no_loss_tokens")
        return ids, trained

    def _spans(self, turns: Sequence[Fields], header: str) -> Iterator[tuple[int, int]]:
        """Characters of the assistant's turns, each from behind the header to the beginning of the next turn."""
        text = self.text(turns)

        def upto(number: int) -> int:
            if number in (0, len(turns)):
                return len(text) if number else 0
            part = self.text(turns[:number])
            # Phi-3 and others end whatever they render with the token of the end
            part = part if text.startswith(part) else part.removesuffix(self.eos)
            if not text.startswith(part):
                raise TemplateMismatch("it renders earlier turns otherwise where others follow")
            return len(part)

        for number, turn in enumerate(turns):
            if turn.get("role") == "assistant":
                start, end = upto(number), upto(number + 1)
                found = text.find(header, start, end)
                # without a header a turn begins where the one before ends, unless templates close that one by it
                open_end = not header and (number == 0 or turns[number - 1].get("role") == "tool")
                if found < 0 or open_end:
                    raise TemplateMismatch("the assistant's turn is not found in the rendering")
                yield found + len(header), end


def _training_template(original: str) -> tuple[str, str]:
    """What renders as the template that TRL trains with, and what stands before a trained turn."""
    known = _KNOWN.get(hashlib.sha256(original.encode()).hexdigest()[:16])
    if known is None:
        raise RipcurrentError(
            "--trainer trl,assistant_only_loss=true: the model's chat template does not mark the assistant's "
            "turns with {% generation %}, and is none of those that TRL or ripcurrent can exchange.",
            "Mark them in the template, as for the training, or leave the option out.",
        )
    for old, new in known.get("edits", ()):
        original = original.replace(old, new)
    return original, known["header"]


def _chatml(fields: Fields) -> Fields:
    """``from`` and ``value`` under the names ``role`` and ``content``, as TRL does where ``conversations`` has them."""
    turns = fields.get("conversations")
    first = turns[0] if isinstance(turns, list) and turns else None
    if not (isinstance(first, Mapping) and "from" in first and "value" in first):
        return fields
    read = {name: value for name, value in fields.items() if name != "conversations"} | {"messages": turns}
    return read | {name: _renamed(read[name]) for name in _TURNS if isinstance(read.get(name), list)}


def _renamed(turns: Iterable[object]) -> list[object]:
    names = {"from": "role", "value": "content"}
    return [{names.get(key, key): one[key] for key in one} if isinstance(one, Mapping) else one for one in turns]


def are_turns(value: object) -> bool:
    """Whether a value is turns; what is neither those nor text cannot be trained."""
    if isinstance(value, str):
        return False
    for turn in mappings(value or None):
        parts = turn.get("content")
        texts = (isinstance(part, Mapping) and part.get("type") == "text" for part in parts or ())
        if isinstance(parts, list) and not all(texts):
            raise Unusable("not_text")
    return True


def _require_columns(fields: Fields, text_field: str) -> None:
    """Raise `RipcurrentError` for a file that TRL does not read; a null in a column that it reads is the row's."""
    if "prompt" not in fields and ("messages" in fields or text_field in fields):
        return
    hint = (
        "Give messages, a prompt and a completion, or a text, as for the training; --map messages=COLUMN renames one."
    )
    reads = f"messages, prompt and completion, conversations (from, value) or {text_field}"
    raise unread("TRL", reads, fields, hint, _FACTS["ways"])


class Unsloth(TrainedTokens):
    """Unsloth's fine-tuning with `train_on_responses_only`; messages become texts by the model's chat template."""

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
            hint = "Give the text that the training makes of a row: --trainer unsloth,dataset_text_field=COLUMN"
            raise unread("Unsloth", f"{self.dataset_text_field}, messages or tokens here", fields, hint)
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
