"""Axolotl (0.18.0): its `chat_template`, `alpaca`, `completion` and `input_output` datasets, and its YAML files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError, field_validator

from ripcurrent.data._axolotl_chat import AxolotlChat, Labelled
from ripcurrent.data._formats import Unusable, mappings, plain_text
from ripcurrent.data._render import check_tokenizer, default_template
from ripcurrent.data._spec import facts_of
from ripcurrent.data._trained_tokens import LabelledTokens, TrainedTokens, unread
from ripcurrent.data._types import Fields
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ends = Literal["all", "turn", "last", "none"]
_ROLES = {"user": ["human", "user"], "assistant": ["gpt", "assistant"], "system": ["system"], "tool": ["tool"]}
_DEFAULT, _FALLBACK = "tokenizer_default", "tokenizer_default_fallback_"
_FACTS = facts_of("axolotl")
_TEMPLATES = _FACTS["templates"]
_WHOLE = ("train_on_inputs", "eot_tokens", "chat_template_kwargs", "excess_length_strategy", "min_sample_len")
"""Options of the whole file that are held."""


class Axolotl(TrainedTokens):
    """Axolotl's supervised fine-tuning; `from_config` reads its YAML. Packing does not change what a row trains."""

    type: Literal["chat_template", "alpaca", "alpaca:chat", "completion", "input_output"] = "chat_template"
    """``type`` of the dataset."""
    train_on_inputs: bool = False
    """Loss on the prompt too."""
    field: str = "text"
    """Column of a completion's text."""
    chat_template: str = _DEFAULT
    """``tokenizer_default``, ``chatml``, ``llama3``, a ``tokenizer_default_fallback_*`` to these, or ``jinja``."""
    chat_template_jinja: str | None = None
    """The template of ``jinja``, or its file."""
    chat_template_kwargs: Fields = Field(default_factory=dict)
    """Further variables of the template."""
    roles_to_train: tuple[str, ...] = ("assistant",)
    """Roles whose turns bear loss."""
    train_on_eos: Ends = "turn"
    """Which ends of text bear loss: of all turns, of trained turns, the last alone, or none."""
    train_on_eot: Ends | None = None
    """Which ends of turns do; without a value as ``train_on_eos``."""
    eot_tokens: tuple[str, ...] | None = None
    """Tokens that end a turn; without a value the end of text."""
    field_messages: str = "messages"
    """Column of the turns."""
    message_property_mappings: dict[str, str] = Field(default_factory=dict)
    """Keys of a turn as the template reads them, and as the rows name them."""
    message_field_training: str | None = None
    """Key of a turn that says whether it is trained."""
    message_field_training_detail: str | None = None
    """Key of a turn that says which of its characters are trained."""
    roles: dict[str, list[str]] = _ROLES
    """Roles as the template reads them, and as the rows name them."""
    drop_system_message: bool = False
    """Leave out a first turn of the system."""
    split_thinking: bool = False
    """Move a thought between tags from an answer's text to its own key."""
    template_thinking_key: str = "reasoning_content"
    """Key from which the template reads a thought."""
    excess_length_strategy: Literal["drop", "truncate", "raise"] = "drop"
    """What becomes of a row that is longer than ``sequence_len``."""
    min_sample_len: int = 2
    """Shorter rows are dropped."""
    special_tokens: dict[str, str] = Field(default_factory=dict)
    """Tokens that the tokenizer is given, which its own have to equal; its padding does not matter."""

    @field_validator("chat_template")
    @classmethod
    def _held(cls, name: str) -> str:
        if name not in (_DEFAULT, "jinja") and name.removeprefix(_FALLBACK) not in _TEMPLATES:
            raise ValueError(f"{name} is not held; give its text as chat_template_jinja with chat_template: jinja")
        return name

    @field_validator("chat_template_kwargs")
    @classmethod
    def _free(cls, variables: Fields) -> Fields:
        if taken := {"chat_template", "add_generation_prompt", "tools", "tokenize", "return_dict"} & set(variables):
            raise ValueError(f"{', '.join(sorted(taken))} is no variable of a template")
        return variables

    def label(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
        for name, token in self.special_tokens.items():
            if name != "pad_token" and getattr(tokenizer, name, None) != token:
                raise RipcurrentError(
                    f"Axolotl trains with {name} {token!r}, and the tokenizer has {getattr(tokenizer, name, None)!r}.",
                    "Name a model folder whose tokenizer has it, such as the one that Axolotl writes.",
                )
        made = {"chat_template": self._chat, "completion": self._completion, "input_output": self._segments}
        ids, trained = made.get(self.type, self._alpaca)(fields, tokenizer, max_tokens)
        if len(ids) > max_tokens and self.excess_length_strategy == "raise":
            raise RipcurrentError(
                f"A row has {len(ids)} tokens, more than {max_tokens}, and with excess_length_strategy raise Axolotl "
                "stops there.",
                "Raise --max-tokens to the sequence_len of the training, or leave such rows out.",
            )
        if len(ids) < (self.min_sample_len or 2) or (len(ids) > max_tokens and self.excess_length_strategy == "drop"):
            raise Unusable("dropped_by_trainer")
        return LabelledTokens(ids[:max_tokens], [float(one) for one in trained[:max_tokens]])

    def _chat(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, _: int) -> Labelled:
        self._require(fields, self.field_messages)
        return AxolotlChat(self, fields, tokenizer).labelled()

    def _alpaca(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Labelled:
        self._require(fields, "instruction", "output")
        opening, middle, closing = _FACTS["alpaca"][self.type]
        given = fields.get("input")
        system = _FACTS["task"].format(_FACTS["with_input"] if given else "")
        asked = opening.format(system=system, instruction=plain_text(fields["instruction"]))
        asked += middle.format(input=plain_text(given)) if given else ""
        prompt = _with_specials(asked + closing, tokenizer, max_tokens)
        answer = _with_specials(plain_text(fields["output"] or ""), tokenizer, max_tokens, ends=True)
        if answer and answer[0] == tokenizer.bos_token_id:
            answer = answer[1:]
        return prompt + answer, [self.train_on_inputs] * len(prompt) + [True] * len(answer)

    def _completion(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Labelled:
        self._require(fields, self.field)
        ids = _with_specials(plain_text(fields[self.field]), tokenizer, 64 * max_tokens, ends=True)
        if len(ids) > max_tokens:
            # it is trained as several rows, each of which sees nothing of the others
            raise Unusable("too_long")
        return ids, [True] * len(ids)

    def _segments(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, _: int) -> Labelled:
        self._require(fields, "segments")
        ids: list[int] = []
        trained: list[bool] = []
        for segment in mappings(fields["segments"]):
            if "label" not in segment:
                raise Unusable("invalid_conversation")
            own = tokenizer(plain_text(segment.get("text")), add_special_tokens=False)["input_ids"]
            ids += own
            trained += [bool(segment["label"]) or self.train_on_inputs] * len(own)
        return ids, trained

    def _require(self, fields: Fields, *names: str) -> None:
        if missing := [name for name in names if name not in fields]:
            option = {"chat_template": "field_messages", "completion": "field"}.get(self.type)
            hint = f"column: --trainer axolotl,type={self.type},{option}=COLUMN" if option else "type: type=TYPE"
            raise unread(f"Axolotl's {self.type}", ", ".join(missing), fields, f"Name the {hint}", _FACTS["ways"])

    def template(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The chat template; raises `RipcurrentError` where the tokenizer has to have one and has none."""
        if self.chat_template == "jinja":
            return _template_text(self.chat_template_jinja or "")
        own = default_template(tokenizer) if self.chat_template.startswith(_DEFAULT) else None
        name = self.chat_template.removeprefix(_FALLBACK)
        check_tokenizer(tokenizer, chat=own is None and name == _DEFAULT)
        return own or _TEMPLATES[name]

    def turn_ends(self, template: str, tokenizer: PreTrainedTokenizerBase) -> set[int]:
        """Ids of the tokens that end a turn."""
        eos = tokenizer.eos_token
        tokens = list(self.eot_tokens) if self.eot_tokens is not None else [str(eos)] if eos is not None else []
        encoded = {token: tokenizer.encode(token, add_special_tokens=False) for token in tokens}
        if tokens != [eos]:
            encoded = {token: ids for token, ids in encoded.items() if token in template}
            if several := [token for token, ids in encoded.items() if len(ids) != 1]:
                raise RipcurrentError(
                    f"--trainer axolotl: of eot_tokens, {', '.join(several)} is not one token of the model.",
                    "Name tokens of its vocabulary, or leave the option out.",
                )
            if eos in encoded and self.train_on_eot not in (None, self.train_on_eos):
                raise RipcurrentError(
                    f"--trainer axolotl: {eos} ends turn and text, and train_on_eot and train_on_eos differ.",
                    "Give both the same value, as Axolotl needs it too.",
                )
        return {ids[0] for ids in encoded.values() if len(ids) == 1}


@lru_cache(maxsize=8)
def _template_text(text: str) -> str:
    """A template, or that of the file which the text names."""
    named = len(text) < 1000 and "{" not in text and Path(text).is_file()
    return Path(text).read_text(encoding="utf-8") if named else text


def _with_specials(text: str, tokenizer: PreTrainedTokenizerBase, limit: int, *, ends: bool = False) -> list[int]:
    """A text with the tokenizer's own special tokens, cut to ``limit``, and the end of text behind what is not cut."""
    if not text:
        return []
    ids = list(tokenizer(text, truncation=True, max_length=limit)["input_ids"])
    if ends and ids and ids[-1] != tokenizer.eos_token_id and len(ids) < limit:
        if tokenizer.eos_token_id is None:
            raise RipcurrentError(
                f"The tokenizer of {tokenizer.name_or_path} has no end of text, which Axolotl puts behind an answer.",
                "Name a model whose tokenizer has one.",
            )
        ids.append(int(tokenizer.eos_token_id))
    return ids


_HELD = tuple(name for name in Axolotl.model_fields if name not in (*_WHOLE, "special_tokens"))


def from_config(config: Fields) -> tuple[Axolotl, int]:
    """The policy of an Axolotl YAML, and its `sequence_len`.

    Several datasets are held where they have the same options. What chooses rows (`split`, `shards`, `val_set_size`,
    `dataset_exact_deduplication`) is not read, nor what is null: Axolotl then takes the default.

    Raises:
        RipcurrentError: The file sets what changes the trained tokens and is not held.
    """
    given = {name: value for name, value in config.items() if value is not None}
    for name in _FACTS["unheld"]:
        if given.get(name):
            raise _unheld(name, given[name])
    plugins = given.get("plugins", [])
    for plugin in [plugins] if isinstance(plugins, str) else plugins:
        if not re.match(rf"axolotl\.integrations\.({'|'.join(_FACTS['plugins'])})\.", str(plugin)):
            raise _unheld("plugins", plugin)
    model, tokenizer = (given.get(name) for name in ("base_model", "tokenizer_config"))
    if tokenizer not in (None, model):
        raise _unheld("tokenizer_config", tokenizer)
    datasets = given.get("datasets")
    if not isinstance(datasets, list) or not datasets or not all(isinstance(entry, Mapping) for entry in datasets):
        raise RipcurrentError("The Axolotl file names no datasets.", "Name the file of a supervised fine-tuning.")
    policies = [_policy(entry, given, f"datasets[{number}]") for number, entry in enumerate(datasets)]
    policy = policies[0]
    if other := next((number for number, one in enumerate(policies) if one != policy), 0):
        raise _unheld(f"datasets[{other}]", "other options than the first dataset's")
    return policy, int(given.get("sequence_len", 512))


def _policy(entry: Fields, config: Fields, where: str) -> Axolotl:
    """The policy of one dataset of a file."""
    own = {name: value for name, value in entry.items() if value is not None and (name != "roles" or value)}
    mapping = dict(own.get("message_property_mappings") or {})
    for key in ("role", "content"):
        mapping |= {key: name} if (name := own.pop(f"message_field_{key}", None)) else {}
    if unknown := [name for name in own if name not in (*_HELD, *_FACTS["choosing"])]:
        raise _unheld(f"{where}.{unknown[0]}", own[unknown[0]])
    options = {name: own[name] for name in _HELD if name in own}
    options |= {name: config[name] for name in _WHOLE if name in config}
    options |= {"message_property_mappings": mapping, "type": own.get("type")}
    # the file's template becomes the tokenizer's own
    if str(own.get("chat_template", _DEFAULT)).startswith(_DEFAULT):
        options.pop("chat_template_jinja", None)
        jinja = {"chat_template_jinja": text} if (text := config.get("chat_template_jinja")) else {}
        named = config.get("chat_template") or ("jinja" if jinja else own.get("chat_template", _DEFAULT))
        options |= {**jinja, "chat_template": named}
    tokens = config.get("special_tokens") or {}
    options["special_tokens"] = {name: token for name, token in tokens.items() if token and name != "pad_token"}
    try:
        return Axolotl(**options)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        place = name if name in (*_WHOLE, "special_tokens") else f"{where}.{name}"
        raise _unheld(place, own.get(name, config.get(name)), problem["msg"]) from error


def _unheld(name: str, value: object, reason: str = "it changes what is trained") -> RipcurrentError:
    return RipcurrentError(
        f"The Axolotl file's {name}: {value} is not held: {reason.removeprefix('Value error, ')}.",
        "Remove it, or let Axolotl tokenize the rows (axolotl preprocess) and scan those with --trainer tokenized.",
    )
