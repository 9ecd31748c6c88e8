"""Rubrics: what a language model is asked of an answer, and how its reply becomes a label.

A rubric is a text file with ``{prompt}`` and ``{completion}`` where the two go. Above the text, between two lines of
``---``, may stand how the reply is read. The built-in rubrics are files of this kind, with a wording of our own.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate.judges._types import LABELS, Facts, Label
from ripcurrent.options import did_you_mean

ReplyKind = Literal["score", "label", "strongreject", "word"]
"""What the judge is asked for: one number, one of named labels, refused with specificity and convincingness, or, of a
model that was trained to judge, a first line that is one of named labels and nothing else."""

BUILTIN_RUBRICS = {path.stem: path for path in sorted(Path(__file__).with_name("rubrics").glob("*.txt"))}
"""Files by the names of their judges."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")


class Rubric(BaseModel):
    """A judge file: the text, and how the reply is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=80)
    text: str
    """What is asked (or, with ``classifier``, what is classified), with ``{prompt}`` and ``{completion}``."""
    reply: ReplyKind = "score"
    """``score``: JSON with ``score``. ``label``: JSON with ``label``. ``strongreject``: JSON with ``refused``,
    ``specificity`` and ``convincingness``. ``word``: no JSON; the first line is a label."""
    scale: tuple[int, int] = (1, 5)
    compliance_from: int | None = None
    """Scores from here on are ``compliance``, those below ``refusal``; the greatest one when left out."""
    labels: dict[str, Label] | None = None
    """What each label of the judge's own means."""
    classifier: str | None = None
    """A sequence-classification model (folder or hub id) that judges in the place of a language model."""
    adapter: str | None = None
    """A LoRA (folder or hub id) that makes a classifier of ``classifier``, its base, and has the head."""

    @field_validator("labels", mode="before")
    @classmethod
    def _known(cls, labels: Any) -> Any:
        for own, label in labels.items() if isinstance(labels, dict) else ():
            if not isinstance(own, str):
                # YAML makes booleans of yes and no
                raise ValueError(f"the label {own!r} is no text")  # noqa: TRY004
            if label not in LABELS:
                near = did_you_mean(str(label), LABELS)
                raise ValueError(f"{own!r} stands for the unknown label {label!r}{near and '.' + near}")
        return labels

    @model_validator(mode="after")
    def _consistent(self) -> Rubric:
        low, high = self.scale
        if low >= high:
            raise ValueError(f"scale {low} to {high} has no two scores")
        if self.compliance_from is not None and not low < self.compliance_from <= high:
            raise ValueError(f"compliance_from {self.compliance_from} leaves one label without a score")
        if "completion" not in _placeholders(self.text):
            raise ValueError("the text has no {completion}, so that every answer would be judged alike")
        if self.reply in ("label", "word") and self.classifier is None:
            if not self.labels:
                raise ValueError(f"reply: {self.reply} needs labels")
            unnamed = [name for name in self.labels if name.lower() not in self.text.lower()]
            # one that was trained to judge knows its labels
            if self.reply == "label" and unnamed:
                raise ValueError(f"the text does not name the label {unnamed[0]!r}, so that the judge cannot give it")
        elif self.labels and self.classifier is None:
            raise ValueError("labels go with reply: label or word, or with a classifier")
        scored = self.reply == "score" and self.classifier is None
        for key in ("scale", "compliance_from"):
            if key in self.model_fields_set and not scored:
                raise ValueError(f"{key} goes with reply: score, and this judge gives none")
        if self.adapter is not None and self.classifier is None:
            raise ValueError("adapter needs its base model as classifier")
        return self

    @property
    def threshold(self) -> int:
        """The least score that is ``compliance``."""
        return self.scale[1] if self.compliance_from is None else self.compliance_from

    @property
    def sha256(self) -> str:
        """Hash of all that decides a label apart from the model."""
        return hashlib.sha256(self.model_dump_json(exclude={"name", "classifier", "adapter"}).encode()).hexdigest()

    def fill(self, prompt: str, completion: str) -> str:
        """The text with the two in their places; braces inside them stay as they are."""
        values = {"prompt": prompt, "completion": completion}
        return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), self.text)


def read_rubric(path: Path) -> Rubric:
    """A rubric from a file, named after it unless it says another name."""
    if not path.is_file():
        raise RipcurrentError(f"There is no judge file {path}.", "Name a text file with {prompt} and {completion}.")
    try:
        head, text = _split(path.read_text(encoding="utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise RipcurrentError(f"The judge file {path} is not UTF-8 text.", "Save it as UTF-8.") from error
    if not text.strip():
        raise RipcurrentError(f"The judge file {path} has no text.", "Write what the judge is asked.")
    if unknown := [found for found in _placeholders(text) if found not in ("prompt", "completion")]:
        raise RipcurrentError(
            f"The judge file {path} has {{{unknown[0]}}} in its text, which stands for nothing.",
            "The request goes to {prompt} and the model's answer to {completion}.",
        )
    try:
        return Rubric.model_validate({"name": path.stem, **head, "text": text.strip("\n")})
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{first['loc'][0]} {first['input']!r} is not possible: " if first["loc"] else ""
        reason = first["msg"].removeprefix("Value error, ")
        raise RipcurrentError(
            f"The judge file {path}: {wrong}{reason}{'' if reason.endswith('?') else '.'}",
            f"reply is {', '.join(get_args(ReplyKind))}; scale is [1, 5], say; labels give each name (yes and no "
            f"in quotes) one of {', '.join(LABELS)}.",
        ) from None


def _split(content: str, where: Path) -> tuple[Facts, str]:
    """The head's keys and the text below it."""
    lines = content.replace("\r\n", "\n").split("\n")
    fences = [number for number, line in enumerate(lines) if line.strip() == "---"]
    if fences[:1] != [0]:
        return {}, content
    hint = "Its head is a list of `key: value` lines between two lines of ---, and the text comes below."
    if len(fences) == 1:
        raise RipcurrentError(f"The judge file {where} has a head without an end.", hint)
    try:
        head = yaml.safe_load("\n".join(lines[1 : fences[1]])) or {}
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 2})" if mark is not None else ""
        raise RipcurrentError(f"The head of the judge file {where} is not YAML{line}.", hint) from error
    if not isinstance(head, dict):
        raise RipcurrentError(f"The head of the judge file {where} has no keys and values.", hint)
    keys = tuple(key for key in Rubric.model_fields if key != "text")
    for key in head:
        if key not in keys:
            near = did_you_mean(str(key), keys)
            raise RipcurrentError(
                f"The judge file {where}: there is no key {key!r}.{near}", f"Keys: {', '.join(keys)}."
            )
    return head, "\n".join(lines[fences[1] + 1 :])


def _placeholders(text: str) -> list[str]:
    return [found[1] for found in _PLACEHOLDER.finditer(text)]
