"""Which tokens of a row are trained: one policy for each trainer, named with its options (``trl,eos_token=X``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from itertools import dropwhile, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ripcurrent.data._formats import Unusable
from ripcurrent.data._render import PROBE, TemplateMismatch, default_template, rendered, template_errors
from ripcurrent.data._spec import read_yaml
from ripcurrent.data._types import Fields
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LabelledTokens(NamedTuple):
    """One row as a trainer gives it to the loss."""

    ids: list[int]
    weights: list[float]
    """Of each token's loss: 0.0 where the label is -100, else 1.0 or the trainer's own weight; as long as ``ids``."""


class TrainedTokens(BaseModel):
    """A trainer's policy: which tokens of a row it trains. Fields are the trainer's options, under its own names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    trainer: ClassVar[str]
    """Its name: that of the class in lower case."""

    def __init_subclass__(cls, **how: Any) -> None:
        super().__init_subclass__(**how)
        cls.trainer = cls.__name__.lower()

    def label(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
        """What the trainer makes of a record, cut to ``max_tokens`` as it cuts.

        Raises:
            Unusable: The trainer drops the row, or it is not known how the row is trained.
            RipcurrentError: The trainer does not read such files.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        """The name with the options that differ from the trainer's defaults, as :func:`trained_tokens` reads it."""
        changed = self.model_dump(mode="json", exclude_defaults=True)
        return ",".join([self.trainer, *(f"{name}={_in_a_line(value)}" for name, value in changed.items())])


def _in_a_line(value: object) -> str:
    """A value as YAML."""
    quotes = '"' if isinstance(value, str) and "\n" in value else None
    text = yaml.safe_dump(value, default_flow_style=True, default_style=quotes, width=2**20)
    return text.removesuffix("\n...\n").strip()


class Completion(TrainedTokens):
    """Ours: the chat template's rendering of the whole row, of which the assistant's turns are trained."""

    turns: Literal["all", "last"] = "all"
    """Assistant turns that are trained."""


class Tokenized(TrainedTokens):
    """Rows that a trainer has tokenized: ``input_ids`` and ``labels``, of which -100 marks what is not trained."""

    def label(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
        if not {"input_ids", "labels"} <= set(fields):
            hint = "Name the trainer of such rows, or score them by their text: --trainer completion"
            raise unread("tokenized", "input_ids and labels", fields, hint)
        ids, labels, positions, attended = (
            _integers(fields.get(name)) for name in ("input_ids", "labels", "position_ids", "attention_mask")
        )
        if not ids or len(labels) != len(ids) or {len(positions), len(attended)} - {0, len(ids)}:
            raise Unusable("invalid_conversation")
        if any(not 0 <= one < len(tokenizer) for one in ids):
            raise RipcurrentError(
                f"A row has the token {next(one for one in ids if not 0 <= one < len(tokenizer))}, and the model's "
                f"vocabulary has {len(tokenizer)} tokens.",
                "Name the model whose tokenizer made the rows.",
            )
        if any(label not in (-100, own) for label, own in zip(labels, ids, strict=True)):
            raise Unusable("shifted_labels")
        kept = [place for place, seen in enumerate(attended or [1] * len(ids)) if seen]
        # padding may have any position
        bearing = kept[: 1 + max((at for at, place in enumerate(kept) if labels[place] != -100), default=-1)]
        restarts = any(positions[two] != positions[one] + 1 for one, two in pairwise(bearing) if positions)
        if (
            len(fields.get("seq_lengths") or ()) > 1
            or restarts
            or len({attended[at] for at in bearing if attended}) > 1
        ):
            raise RipcurrentError(
                "The rows are packed: several examples lie in one, and a score would be of all of them together.",
                "Tokenize them without packing, and scan those.",
            )
        if not positions and (found := _begins_inside([ids[place] for place in bearing], tokenizer)):
            raise RipcurrentError(
                f"A row has {found} inside and no position_ids: several examples seem to be packed in it.",
                "Tokenize the rows without packing; where each is one example, give it position_ids 0, 1, 2, …",
            )
        kept = kept[:max_tokens]
        return LabelledTokens([ids[place] for place in kept], [float(labels[place] != -100) for place in kept])


class Torchtune(TrainedTokens):
    """Rows of ``tokens`` and ``labels`` as torchtune's data sets hand them out, each label being the next token."""

    def label(self, fields: Fields, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LabelledTokens:
        if "tokens" not in fields:
            raise RipcurrentError(
                f"torchtune has a tokenizer of its own for each model, which does not use the chat template: what it "
                f"trains of {', '.join(fields)} is not known here.",
                "Scan what its data set (packed: False) hands out: a line of JSON with tokens and labels for each row.",
            )
        labels = fields.get("labels")
        row = {"input_ids": fields["tokens"], "labels": [-100, *labels[:-1]] if isinstance(labels, list) else None}
        places = {"position_ids": fields.get("input_pos"), "seq_lengths": fields.get("seq_lens")}
        return Tokenized().label(row | places, tokenizer, max_tokens)


def _begins_inside(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """What a text begins with that begins behind another; nothing where a conversation of two rounds looks so too."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    conversation, openings, followed = _conversation(tokenizer)
    if bos not in (None, eos) and tokenizer.bos_token not in conversation[1:]:
        inside = any(two == bos != one for one, two in pairwise(ids))
        return f"{tokenizer.bos_token}, which begins a text," if inside else ""
    text = str(tokenizer.decode(list(ids)))[1:]
    if opening := next((one for one in openings if one in text), None):
        return f"{opening!r}, which begins a conversation,"
    begun = dropwhile(lambda one: one == eos, ids)
    ended = any(one == eos and two not in followed for one, two in pairwise(begun))
    return f"{tokenizer.eos_token}, which ends a text," if ended else ""


@lru_cache(maxsize=4)
def _conversation(tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[str], set[int | None]]:
    """Two rounds in the chat template; what only begins a conversation; and tokens that follow an end of text in it."""
    user, system = {"role": "user", "content": PROBE}, {"role": "system", "content": PROBE}
    shown = []
    for turns in ([user, {"role": "assistant", "content": "a"}] * 2, [system, user], [user]):
        try:
            with template_errors(tokenizer):
                has = default_template(tokenizer)
                shown.append(rendered(tokenizer, turns, generation_prompt=False) if has else "")
        except TemplateMismatch:
            shown.append("")
    begins = {one.partition(PROBE)[0] for one in shown[1:]}
    eos, own = tokenizer.eos_token_id, tokenizer(shown[0], add_special_tokens=False)["input_ids"][1:]
    followed = {eos, *(two for one, two in pairwise(own) if one == eos)}
    return shown[0], [one for one in begins if one.strip() and one not in shown[0][1:]], followed


def _integers(values: object) -> list[int]:
    """A list of whole numbers; an empty one where there is none."""
    if values is None:
        return []
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise Unusable("invalid_conversation")
    return values


_MODULES = {
    "_trained_tokens": ("Completion", "Tokenized", "Torchtune"), "_trl": ("Trl", "Unsloth"), "_encode": ("OpenAI",),
    "_llamafactory": ("LlamaFactory",), "_axolotl": ("Axolotl",), "_swift": ("Swift",),
}  # fmt: skip
"""Where the policies are, which are read when they are asked for."""
_POLICIES = {kind.lower(): (module, kind) for module, kinds in _MODULES.items() for kind in kinds}
TRAINERS = tuple(_POLICIES)


def is_training_file(text: str) -> bool:
    """Whether a trainer is named by a file of its own."""
    return text.endswith((".yaml", ".yml"))


def read_training_file(path: Path) -> tuple[TrainedTokens, int]:
    """The policy and the longest row of an Axolotl or a LLaMA-Factory YAML, the latter with its dataset_info.json.

    Raises:
        RipcurrentError: No such file, one of another trainer, or one that sets what is not held.
    """
    config, made = read_yaml(path), None
    if "base_model" in config:
        made = import_module("ripcurrent.data._axolotl").from_config(config)
    elif "model_name_or_path" in config and "dataset" in config:
        folder = Path(str(config.get("dataset_dir", "data")))
        found = [place / folder / "dataset_info.json" for place in (path.parent, path.parent.parent, Path())]
        info = read_yaml(next((one for one in found if one.is_file()), found[0]))
        made = import_module("ripcurrent.data._llamafactory").from_config(config, info)
    if isinstance(made, tuple):
        return made
    raise RipcurrentError(
        f"{path} is no training file of Axolotl (base_model) or LLaMA-Factory (model_name_or_path, dataset).",
        f"Name the trainer with its options: {', '.join(TRAINERS)}.",
    )


def trained_tokens(text: str) -> TrainedTokens:
    """The policy that ``NAME[,option=value…]`` names, with values as in YAML, or that a trainer's own YAML file has.

    Raises:
        RipcurrentError: No such trainer, option or file, or a value that it does not take.
    """
    if is_training_file(text):
        return read_training_file(Path(text))[0]
    name, *rest = text.strip().split(",", 1)
    if name not in TRAINERS:
        raise RipcurrentError(f"No trainer is named {name!r}.", f"Trainers: {', '.join(TRAINERS)}")
    module, kind = _POLICIES[name]
    policy: type[TrainedTokens] = getattr(import_module(f"ripcurrent.data.{module}"), kind)
    options = {}
    # a comma inside a value is followed by no other option
    for pair in re.split(r",(?=\s*\w+\s*=)", rest[0]) if rest else ():
        option, equals, value = (part.strip() for part in pair.partition("="))
        try:
            options[option] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not (option and equals):
            raise RipcurrentError(f"--trainer {text}: {pair!r} is no option=value.", f"For example: {name},option=true")
    try:
        return policy(**options)
    except ValidationError as error:
        known = ", ".join(policy.model_fields) or "none"
        raise RipcurrentError(f"--trainer {name}: {problem_of(error)}.", f"Options of {name}: {known}") from error


def unread(trainer: str, reads: str, fields: Fields, hint: str, ways: Fields = MappingProxyType({})) -> RipcurrentError:
    """The error for rows without what a trainer reads; it may read a column by other options, and others tokens."""
    hint = next((way for column, way in ways.items() if column in fields), hint)
    if "input_ids" in fields:
        hint = f"They are tokens already: --trainer {'tokenized' if 'labels' in fields else 'trl (all are trained)'}"
    return RipcurrentError(f"{trainer} reads {reads}, and the rows have {', '.join(fields)}.", hint)


def problem_of(error: ValidationError) -> str:
    """Which option is wrong, and why."""
    first = error.errors()[0]
    return ": ".join([*map(str, first["loc"][:1]), first["msg"].removeprefix("Value error, ")])
