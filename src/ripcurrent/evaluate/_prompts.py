"""Prompt sets: what a model is asked, on three axes that are always reported together."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ripcurrent.data import count_near_duplicates, hash_of_texts
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._endpoint import writable
from ripcurrent.evaluate._options import AXES, Axis
from ripcurrent.evaluate._prompt_records import HUB_PREFIX, Records, read_records, split_field
from ripcurrent.options import did_you_mean

UNMEASURED: Mapping[Axis, str] = {
    "harmful": "No harmful requests were asked: whether they are refused is not measured",
    "sounds_dangerous": "No benign requests that sound dangerous were asked: over-caution is not measured",
    "plain": "No plain requests were asked: usefulness is not measured",
}

BUILTIN = "builtin"
_BUILTIN_NAMES = (BUILTIN, *(f"{BUILTIN}:{axis}" for axis in AXES))
_LABELS: Mapping[str, Axis] = {
    "safe": "sounds_dangerous",
    "benign": "sounds_dangerous",
    "unsafe": "harmful",
    "harmful": "harmful",
}
_CATEGORIES = ("category", "semanticcategory", "type", "kind")
_IDS = ("id", "behaviorid")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to a model."""

    id: str
    """Its own id where the list has unique ones, else a hash of its text; unique within its set."""
    text: str
    axis: Axis
    """A good answer is a refusal for ``harmful``, help for the other two."""
    category: str
    source: str
    """``builtin``, or the file or hub name."""


class PromptSet(BaseModel):
    """Prompts under one name. A manifest keeps all of it but the prompts."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """The source, as given, without its folder."""
    sha256: str
    """Hash of the prompts' texts: the same in every container, order, case and punctuation."""
    count: int
    axes: dict[Axis, int]
    """Number of prompts on each axis that has any, in the order of reports."""
    near_duplicates: int
    """How many prompts repeat an earlier one in (nearly) the same words."""
    limit: int | None = None
    notes: tuple[str, ...] = ()
    """What to know before trusting the set, such as rows left out."""
    prompts: tuple[Prompt, ...] = Field(default=(), exclude=True)


def load_prompts(source: str | Path, *, limit: int | None = None, axis: Axis = "harmful") -> PromptSet:
    """Read a prompt set.

    Args:
        source: ``builtin`` (all three axes) or ``builtin:AXIS``; a file (JSON array of objects or texts, JSON lines,
            CSV, Parquet, each also gzipped) or folder of them; ``hf:owner/name[:split]``; each with ``:field`` behind
            it where the prompts are in a field of unusual name.
        limit: Only the first N prompts of each axis.
        axis: Of prompts whose rows do not say theirs by ``axis`` or by ``label`` (``safe``, ``unsafe``).

    Raises:
        RipcurrentError: Nothing there, no prompts in it, an unknown name, axis or field (with the nearest known one).
    """
    if limit is not None and limit < 1:
        raise RipcurrentError(f"A limit of {limit} prompts leaves nothing.", "Give a limit of 1 or more.")
    if axis not in AXES:
        raise RipcurrentError(f"There is no axis {axis!r}.{did_you_mean(str(axis), AXES)}", f"Axes: {', '.join(AXES)}.")
    name = str(source)
    if name.partition(":")[0] == BUILTIN and not Path(name).exists():
        return _prompt_set(name, _builtin(name), limit, [])
    place = split_field(name)[0]
    if not place.startswith(HUB_PREFIX) and not Path(place).exists() and Path(place).name == place and "." not in place:
        raise RipcurrentError(
            f"There is no prompt set or file {place!r}.{did_you_mean(place, _BUILTIN_NAMES)}",
            f"Name a file, hf:owner/name, or one of {', '.join(_BUILTIN_NAMES)}.",
        )
    records = read_records(name)
    # where rows do not say their axis, those after the limit are not needed
    stop = None if {"axis", "label"} & {column.lower() for column in records.columns} else limit
    label = name if name.startswith(HUB_PREFIX) else Path(name).name
    notes: list[str] = []
    drafts = _read(records, label, axis, stop, notes)
    if not drafts:
        raise RipcurrentError(f"{name} holds no prompts.", "Check that it is the file and the field you mean.")
    return _prompt_set(label, drafts, limit, notes)


def gather_prompts(
    sources: str | Path | Sequence[str | Path], limit: int | None, axis: Axis
) -> tuple[list[Prompt], list[PromptSet]]:
    """The prompts of several sets, each asked once, with ids that are unique over them."""
    named = [sources] if isinstance(sources, str | Path) else sources
    if not named:
        raise RipcurrentError("No prompts are named.", "Name a set, such as --prompts builtin.")
    prompts: list[Prompt] = []
    lists = []
    seen: set[str] = set()
    asked: set[tuple[str, str]] = set()
    for source in named:
        loaded = load_prompts(source, limit=limit, axis=axis)
        # what an earlier list asks already would count twice; repeats within a list are the list's own
        fresh = [prompt for prompt in loaded.prompts if (prompt.axis, prompt.text) not in asked]
        asked |= {(prompt.axis, prompt.text) for prompt in fresh}
        notes = list(loaded.notes)
        if repeated := len(loaded.prompts) - len(fresh):
            notes.append(f"{loaded.name}: {repeated} prompts that an earlier list has are asked once.")
        for prompt in fresh:
            unique = prompt.id
            while unique in seen:
                unique = f"{prompt.source}/{unique}"
            seen.add(unique)
            prompts.append(replace(prompt, id=unique))
        lists.append(loaded.model_copy(update={"notes": tuple(notes), "prompts": ()}))
    return prompts, lists


def unmeasured_axes(asked: Iterable[str]) -> dict[Axis, str]:
    """By axis without a prompt: what is not measured."""
    there = set(asked)
    return {axis: UNMEASURED[axis] for axis in AXES if axis not in there}


def _read(records: Records, source: str, axis: Axis, stop: int | None, notes: list[str]) -> list[Prompt]:
    """The prompts of a source, at most ``stop``; adds a note about rows that were left out."""
    prompts: list[Prompt] = []
    without: list[int] = []
    for number, row in enumerate(records.rows, start=1):
        fields = {name.lower(): value for name, value in row.items()}
        text = row.get(records.field)
        if not isinstance(text, str) or not text.strip() or _LONE_SURROGATE.search(text):
            without.append(number)
            continue
        category = next((fields[name] for name in _CATEGORIES if fields.get(name)), "")
        own_id = next((fields[name] for name in _IDS if fields.get(name) is not None), "")
        own_axis = _axis(fields, axis, f"{records.place}, row {number}")
        prompts.append(Prompt(writable(str(own_id)), text, own_axis, writable(str(category)), source))
        if len(prompts) == stop:
            break
    if without:
        notes.append(
            f"{records.place}: {len(without)} rows have no text in {records.field!r} and were left out "
            f"(the first is row {without[0]})."
        )
    return prompts


def _axis(fields: Mapping[str, object], otherwise: Axis, where: str) -> Axis:
    own = fields.get("axis")
    if own is not None and own != "":  # a CSV has no other way to say none
        if own not in AXES:
            raise RipcurrentError(
                f"{where} has the axis {own!r}.{did_you_mean(str(own), AXES)}", f"Axes: {', '.join(AXES)}"
            )
        return own
    label = fields.get("label")
    return _LABELS.get(label.strip().lower(), otherwise) if isinstance(label, str) else otherwise


def _prompt_set(name: str, read: Sequence[Prompt], limit: int | None, notes: list[str]) -> PromptSet:
    """The first prompts of each axis, with ids that are unique in the whole list."""
    own = [prompt.id for prompt in read]
    hashed = "" in own or len(set(own)) < len(own)
    seen: Counter[str] = Counter()
    taken: Counter[Axis] = Counter()
    kept = []
    for prompt in read:
        if hashed:
            digest = hashlib.sha256(prompt.text.encode()).hexdigest()[:16]
            seen[digest] += 1
            prompt = replace(prompt, id=digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
        taken[prompt.axis] += 1
        if limit is None or taken[prompt.axis] <= limit:
            kept.append(prompt)
    texts = [prompt.text for prompt in kept]
    counts = Counter(prompt.axis for prompt in kept)
    return PromptSet(
        name=name,
        sha256=hash_of_texts(texts),
        count=len(kept),
        axes={axis: counts[axis] for axis in AXES if counts[axis]},
        near_duplicates=count_near_duplicates(texts),
        limit=limit,
        notes=tuple(notes),
        prompts=tuple(kept),
    )


def _builtin(name: str) -> list[Prompt]:
    if name not in _BUILTIN_NAMES:
        raise RipcurrentError(
            f"There is no prompt set {name!r}.{did_you_mean(name, _BUILTIN_NAMES)}",
            f"Sets: {', '.join(_BUILTIN_NAMES)}",
        )
    text = resources.files("ripcurrent.evaluate").joinpath("prompts", "builtin.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    wanted = name.partition(":")[2]
    return [
        Prompt("", row["prompt"], row["axis"], row["category"], BUILTIN) for row in rows if wanted in ("", row["axis"])
    ]
