"""TRL's `SFTTrainer` (1.16.0): its preparation of a dataset, row by row, without packing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

from ripcurrent.data._formats import LONE_SURROGATE, Unusable
from ripcurrent.data._render import TemplateMismatch, check_tokenizer, dated_template, default_template, template_errors
from ripcurrent.data._trained_tokens import LabelledTokens, Tokenized, TrainedTokens
from ripcurrent.data._types import Fields
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Edits = tuple[tuple[str, str], ...]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TURNS = ("prompt", "completion", "chosen", "rejected", "messages")
_CALL = {"add_generation_prompt", "continue_final_message", "max_length", "padding", "return_assistant_tokens_mask",
         "return_dict", "return_tensors", "sanitize_control_tokens", "tokenize", "tokenizer_kwargs", "truncation",
         "chat_template", "tools"}  # fmt: skip
"""Arguments of the call that renders a row, which a row's ``chat_template_kwargs`` may not set here."""

_CHATML = "<|im_start|>assistant\n"
_THINK: Edits = (("loop.index0 > ns.last_query_index", "true"),)
_COHERE = "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
_KNOWN: dict[str, tuple[str, Edits]] = {
    "90c33aee14aa2a22": (_COHERE, ()),  # Command R
    "2147c474f41b522b": (_COHERE + "<|START_RESPONSE|>", ()),  # Command R7B
    "56a1447ad31926fd": ("", (("'</think>' in content", "false"),)),  # DeepSeek-R1-Distill
    "563b1ce7d61d50a9": ("", ()),  # DeepSeek-V3
    "ecd6ae513fe103f0": ("<start_of_turn>model\n", ()),  # Gemma, Gemma 2
    "7de1c58e208eda46": ("<start_of_turn>model\n", ()),  # Gemma 3
    "a4c9919cbbd4acdd": ("", ()),  # GPT-OSS
    "cef187400d62a595": (_CHATML, ()),  # LFM2
    "5504d163d879bfb6": (_CHATML, ()),  # LFM2, later
    "ba03a121d097859c": ("<|start_header_id|>assistant<|end_header_id|>\n\n", ()),  # Llama 3
    "ab7813c3abdd9cb6": (_CHATML, ()),  # Nemotron 3 Nano
    "575fb74f54ed264d": (_CHATML, ()),  # Nemotron 3 Super
    "82753bef5cedc493": (_CHATML, ()),  # Nemotron 3 Ultra
    "58933db77d3099b4": (_CHATML, ()),  # Nemotron 3.5 Lightning
    "dcaee66df77bfbb7": ("<|assistant|>\n", ()),  # Phi-3
    "78d976a442bcde2f": ("<|assistant|>\n", ()),  # Phi-3.5
    "cd8e9439f0570856": ("<|im_start|>assistant", ()),  # Qwen 2.5, of which the line feed is trained
    "a55ee1b1660128b7": (_CHATML, (*_THINK, ("loop.last or (not loop.last and reasoning_content)", "true"))),  # Qwen 3
    "64f85b198065d0fb": (_CHATML, ()),  # Qwen 3 Instruct 2507
    "a4aee8afcf2e0711": (_CHATML, _THINK),  # Qwen 3.5, thinking
    "273d8e0e683b8850": (_CHATML, _THINK),  # Qwen 3.5
    "e84f32a23fdda276": (_CHATML, _THINK),  # Qwen 3.6
    "c3cf9e34abf4f9e3": (_CHATML, _THINK),  # Qwen 3.8
}
"""Templates without `{% generation %}` that TRL exchanges for training, by SHA-256: what stands before a trained turn
("": nothing, its own header is trained too), and what TRL's own template renders otherwise."""


class Trl(TrainedTokens):
    """TRL's `SFTTrainer`.

    Rows are read as `load_dataset` reads a JSON file; `Dataset.from_list` fills in nulls that a template may print.
    """

    trainer = "trl"

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
                ids = _text_ids(fields[self.dataset_text_field], tokenizer)
                return ids, [True] * len(ids)
            prompt = _text_ids(fields["prompt"], tokenizer)
            ids = _text_ids(fields["prompt"] + fields["completion"], tokenizer)
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
        if not isinstance(variables, Mapping) or _CALL & set(variables):
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
    for old, new in known[1]:
        original = original.replace(old, new)
    return original, known[0]


def _chatml(fields: Fields) -> Fields:
    """``from`` and ``value`` under the names ``role`` and ``content``, as TRL does where ``conversations`` has them."""
    turns = fields.get("conversations")
    first = turns[0] if isinstance(turns, list) and turns else None
    if not (isinstance(first, Mapping) and "from" in first and "value" in first):
        return fields
    names = {"from": "role", "value": "content"}

    def renamed(turn: object) -> object:
        return {names.get(key, key): value for key, value in turn.items()} if isinstance(turn, Mapping) else turn

    read = {name: value for name, value in fields.items() if name != "conversations"} | {"messages": turns}
    return {
        name: [renamed(turn) for turn in value] if name in _TURNS and isinstance(value, list) else value
        for name, value in read.items()
    }


def are_turns(value: object) -> bool:
    """Whether a value is turns; what is neither those nor text cannot be trained."""
    if isinstance(value, str):
        return False
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) for turn in value):
        raise Unusable("invalid_conversation")
    for turn in value:
        parts = turn.get("content")
        if isinstance(parts, list) and any(
            not isinstance(part, Mapping) or part.get("type") != "text" for part in parts
        ):
            raise Unusable("not_text")
    return True


def _text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text)["input_ids"])


def _require_columns(fields: Fields, text_field: str) -> None:
    """Raise `RipcurrentError` for a file that TRL does not read; a null in a column that it reads is the row's."""
    if "prompt" not in fields and ("messages" in fields or text_field in fields):
        return
    hint = (
        "Give messages, a prompt and a completion, or a text, as for the training; --map messages=COLUMN renames one."
    )
    if "chosen" in fields:
        hint = (
            "To train the chosen answers: --map completion=chosen beside a column prompt, else --map messages=chosen."
        )
    elif "conversations" in fields:
        hint = "Where its turns have a role and a content: --map messages=conversations, as TRL needs it too."
    elif "instruction" in fields:
        hint = "Write prompt and completion, with what the training puts between instruction, input and answer."
    raise RipcurrentError(
        f"TRL does not read such rows: they have the fields {', '.join(fields)}, "
        f"and neither messages, prompt and completion, conversations (from, value) nor {text_field}.",
        hint,
    )
