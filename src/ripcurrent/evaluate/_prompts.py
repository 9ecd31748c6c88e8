"""Prompt sets: what a model is asked, on three axes that are always reported together."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ripcurrent.data import count_near_duplicates, hash_of_texts, open_container, plain_suffix
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._endpoint import writable
from ripcurrent.evaluate._options import AXES, Axis
from ripcurrent.options import did_you_mean

UNMEASURED: Mapping[Axis, str] = {
    "harmful": "No harmful requests were asked: whether they are refused is not measured",
    "sounds_dangerous": "No benign requests that sound dangerous were asked: over-caution is not measured",
    "plain": "No plain requests were asked: usefulness is not measured",
}

PROMPT_FIELDS = (
    *("prompt", "instruction", "request", "goal", "forbidden_prompt", "behavior", "behaviour", "question"),
    *("query", "text"),
)
"""Fields that prompts are looked for in, in this order, whatever their capitals."""
BUILTIN, HUB_PREFIX = "builtin", "hf:"
_BUILTIN_FILE = Path(__file__).with_name("prompts") / "builtin.jsonl"
_BUILTIN_NAMES = (BUILTIN, *(f"{BUILTIN}:{axis}" for axis in AXES))
_LABELS: Mapping[str, Axis] = {
    **dict.fromkeys(("safe", "benign"), "sounds_dangerous"),
    **dict.fromkeys(("unsafe", "harmful"), "harmful"),
}
_CATEGORIES = ("category", "semanticcategory", "type", "kind")
_IDS = ("id", "behaviorid")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
_SAMPLE = 20

_Record = Mapping[str, object]
"""A row of a prompt list by field; one without named fields is empty."""


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

    def turns(self, system: str | None) -> list[dict[str, str]]:
        """The conversation up to the answer."""
        opening = [{"role": "system", "content": system}] if system is not None else []
        return [*opening, {"role": "user", "content": self.text}]


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

    ``source`` is ``builtin`` (all three axes) or ``builtin:AXIS``; a file (JSON array of objects or texts, JSON lines,
    CSV, Parquet, each also gzipped) or folder of them; ``hf:owner/name[:split]``; each with ``:field`` behind it where
    the prompts are in a field of unusual name. ``limit`` takes the first N prompts of each axis. ``axis`` is that of
    prompts whose rows do not say theirs by ``axis`` or by ``label`` (``safe``, ``unsafe``).

    Raises:
        RipcurrentError: Nothing there, no prompts in it, an unknown name, axis or field (with the nearest known one).
    """
    name, without = str(source), list[int]()
    if name.partition(":")[0] == BUILTIN and not Path(name).exists():
        if name not in _BUILTIN_NAMES:
            raise _no_set(name)
        own = _read(_records(str(_BUILTIN_FILE)), "prompt", BUILTIN, BUILTIN, "harmful", without)
        return set_of(name, [one for one in own if name in (BUILTIN, f"{BUILTIN}:{one.axis}")], limit, ())
    place, named = _split_field(name)
    on_hub = place.startswith(HUB_PREFIX)
    if not on_hub and not Path(place).exists() and Path(place).name == place and "." not in place:
        raise _no_set(place)
    rows = chain.from_iterable(map(_records, _parts(place)))
    head = list(islice(rows, _SAMPLE))
    columns = tuple(dict.fromkeys(column for row in head for column in row))
    field = _choose_field(place, named, columns, head) if columns else ""
    # where rows do not say their axis, those after the limit are not needed
    stop = None if {"axis", "label"} & {column.lower() for column in columns} else limit
    label = name if on_hub else Path(name).name
    drafts = list(islice(_read(chain(head, rows), field, place, label, axis, without), stop))
    if not drafts:
        raise RipcurrentError(f"{name} holds no prompts.", "Check that it is the file and the field you mean.")
    left_out = f"{place}: {len(without)} rows have no text in {field!r} and were left out"
    return set_of(label, drafts, limit, (f"{left_out} (the first is row {without[0]}).",) if without else ())


def gather_prompts(sources: Sequence[str], limit: int | None, axis: Axis) -> tuple[list[Prompt], list[PromptSet]]:
    """The prompts of several sets, each asked once, with ids that are unique over them."""
    if not sources:
        raise RipcurrentError("No prompts are named.", "Name a set, such as --prompts builtin.")
    prompts: dict[str, Prompt] = {}
    lists = []
    asked: set[tuple[str, str]] = set()
    for source in sources:
        loaded = load_prompts(source, limit=limit, axis=axis)
        # what an earlier list asks already would count twice; repeats within a list are the list's own
        fresh = [prompt for prompt in loaded.prompts if (prompt.axis, prompt.text) not in asked]
        asked |= {(prompt.axis, prompt.text) for prompt in fresh}
        notes = loaded.notes
        if repeated := len(loaded.prompts) - len(fresh):
            notes = (*notes, f"{loaded.name}: {repeated} prompts that an earlier list has are asked once.")
        for prompt in fresh:
            unique = prompt.id
            while unique in prompts:
                unique = f"{prompt.source}/{unique}"
            prompts[unique] = replace(prompt, id=unique)
        lists.append(loaded.model_copy(update={"notes": notes, "prompts": ()}))
    return list(prompts.values()), lists


def unmeasured_axes(asked: Iterable[str]) -> dict[Axis, str]:
    """By axis without a prompt: what is not measured."""
    there = set(asked)
    return {axis: UNMEASURED[axis] for axis in AXES if axis not in there}


def _read(
    rows: Iterator[_Record], field: str, place: str, source: str, axis: Axis, without: list[int]
) -> Iterator[Prompt]:
    """The prompts of a source; ``without`` gets the numbers, from 1, of rows that are left out."""
    for number, row in enumerate(rows, start=1):
        fields = {name.lower(): value for name, value in row.items()}
        text = row.get(field)
        if not isinstance(text, str) or not text.strip() or _LONE_SURROGATE.search(text):
            without.append(number)
            continue
        own_id = next((fields[name] for name in _IDS if fields.get(name) is not None), "")
        of = own_axis(fields, axis, f"{place}, row {number}")
        yield Prompt(writable(str(own_id)), text, of, own_category(fields), source)


def own_category(fields: _Record) -> str:
    """A row's own category; ``fields`` are in lower case."""
    return writable(str(next((fields[name] for name in _CATEGORIES if fields.get(name)), "")))


def own_axis(fields: _Record, otherwise: Axis, where: str) -> Axis:
    """A row's own axis, by ``axis`` or ``label``; ``where`` is for an error about one that does not exist."""
    own = fields.get("axis")
    if own is not None and own != "":  # a CSV has no other way to say none
        if own not in AXES:
            near = did_you_mean(str(own), AXES)
            raise RipcurrentError(f"{where} has the axis {own!r}.{near}", f"Axes: {', '.join(AXES)}")
        return own
    label = fields.get("label")
    return _LABELS.get(label.strip().lower(), otherwise) if isinstance(label, str) else otherwise


def set_of(name: str, read: Sequence[Prompt], limit: int | None, notes: tuple[str, ...]) -> PromptSet:
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
        notes=notes,
        prompts=tuple(kept),
    )


def _no_set(name: str) -> RipcurrentError:
    return RipcurrentError(
        f"There is no prompt set or file {name!r}.{did_you_mean(name, _BUILTIN_NAMES)}",
        f"Name a file, hf:owner/name, or one of {', '.join(_BUILTIN_NAMES)}.",
    )


def _split_field(source: str) -> tuple[str, str | None]:
    """A source and the field named after it, ``FILE:field``; None where none is named."""
    if source.startswith(HUB_PREFIX):
        address = source.split(":")
        return ":".join(address[:3]), ":".join(address[3:]) or None
    place, _, field = source.rpartition(":")
    return (place, field) if field and not Path(source).exists() and Path(place or source).exists() else (source, None)


def _parts(place: str) -> list[str]:
    """What is opened for itself: the files of a folder, as those without a header have no columns in common."""
    path = Path(place)
    saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    files = [] if saved or not path.is_dir() else [one for one in path.iterdir() if plain_suffix(one) in _SUFFIXES]
    return sorted(map(str, files)) or [place]


def _records(part: str) -> Iterator[_Record]:
    """The rows of one file by field. A bare text is a prompt."""
    container = open_container(part)
    header = container.columns or ()
    # No column is named by a sentence: the file has no header (HEx-PHI's are such), and the line is a prompt.
    bare = header[0] if container.kind == "csv" and len(header) == 1 and " " in header[0].strip() else None
    for record in chain([bare] if bare else [], container.records()):
        row = {"prompt": record} if isinstance(record, str) else record if isinstance(record, Mapping) else {}
        yield {"prompt" if name == bare else str(name): value for name, value in row.items()}


def _choose_field(place: str, named: str | None, columns: tuple[str, ...], head: Sequence[_Record]) -> str:
    listing = ", ".join(columns)
    if named is not None and named not in columns:
        near = did_you_mean(named, columns)
        raise RipcurrentError(f"{place} has no field {named!r}.{near}", f"Its fields: {listing}")
    by_lower = {column.lower(): column for column in reversed(columns)}
    chosen = named or next((by_lower[one] for one in PROMPT_FIELDS if one in by_lower), None)
    if chosen is not None:
        return chosen
    texts = [name for name in columns if any(isinstance(row.get(name), str) for row in head)]
    raise RipcurrentError(
        f"{place} has no field that is known to hold prompts; its fields: {listing}.",
        f"Name it after the source, as in {place}:{texts[0]}, or rename it to one of: {', '.join(PROMPT_FIELDS)}."
        if texts
        else "None of them is a text: write one request a row into a field prompt; of a chat its last user turn.",
    )
