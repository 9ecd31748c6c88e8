"""The prompts of an experiment: sources sampled by category with a fixed seed, near-duplicates of others left out."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ripcurrent.data import NEAR_DUPLICATE, count_near_duplicates, similarity, word_set
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import Prompt, load_prompts
from ripcurrent.experiment._categories import merged_category
from ripcurrent.experiment._config import PromptSource
from ripcurrent.runs import written_whole


def gather_prompts(sources: Sequence[PromptSource]) -> tuple[list[Prompt], list[dict[str, Any]]]:
    """All prompts of an experiment, and a record of each source: its hash, how many were taken and left out.

    Raises:
        RipcurrentError: A source that cannot be read, or has nothing left; or none of them asks anything harmful.
    """
    prompts: list[Prompt] = []
    records = []
    taken: set[tuple[str, str]] = set()
    for source in sources:
        loaded = load_prompts(source.source, axis=source.axis or "harmful")
        pool = [prompt for prompt in loaded.prompts if source.axis in (None, prompt.axis)]
        # a text that an earlier source has already would count twice
        fresh = [prompt for prompt in pool if (prompt.text, prompt.axis) not in taken]
        kept = _without(fresh, source.without)
        chosen = stratified(kept, source.limit, source.seed)
        if not chosen:
            raise RipcurrentError(
                f"Nothing is left of the prompts {source.source}"
                + (f" on the axis {source.axis}" if source.axis else "")
                + ".",
                "Check its axis and what it is to go without.",
            )
        taken |= {(prompt.text, prompt.axis) for prompt in chosen}
        prompts += chosen
        records.append(
            {
                **source.model_dump(),
                "name": loaded.name,
                "sha256": loaded.sha256,
                "listed": len(pool),
                "repeated": len(pool) - len(fresh),
                "near_duplicates_left_out": len(fresh) - len(kept),
                "taken": len(chosen),
                "near_duplicates": count_near_duplicates([prompt.text for prompt in chosen]),
                "notes": list(loaded.notes),
            }
        )
    if not any(prompt.axis == "harmful" for prompt in prompts):
        raise RipcurrentError(
            "None of the prompts is on the axis harmful, and it is on harmful requests that arms are compared.",
            "Add a source to prompts, such as builtin:harmful, or say of a file of yours: axis: harmful.",
        )
    return prompts, records


def stratified(prompts: Sequence[Prompt], limit: int | None, seed: int) -> list[Prompt]:
    """At most ``limit`` prompts of each axis, every category (synonyms merged) by its share; in the list's order.

    Equal seeds give equal prompts. The parts of the shares below a whole prompt go to the largest remainders.
    """
    if limit is None:
        return list(prompts)
    by_axis: defaultdict[str, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        by_axis[prompt.axis].append(place)
    random = np.random.default_rng(seed)
    chosen: list[int] = []
    for places in by_axis.values():
        strata: defaultdict[str, list[int]] = defaultdict(list)
        for place in places:
            strata[merged_category(prompts[place].category)].append(place)
        counts = _shares({name: len(members) for name, members in strata.items()}, min(limit, len(places)))
        for name in sorted(strata):
            chosen += random.permutation(strata[name])[: counts[name]].tolist()
    return [prompts[place] for place in sorted(chosen)]


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> None:
    """The prompts as one file that every arm is asked, ids unique over all sources."""
    with written_whole(path) as part, part.open("w", encoding="utf-8") as file:
        for record in _records(prompts):
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def asks_the_same(path: Path, prompts: Iterable[Prompt]) -> bool:
    """Whether a file of `write_prompts` has these prompts: ids, axes and texts, in this order."""
    with path.open(encoding="utf-8") as file:
        written = [json.loads(line) for line in file]
    return [_asked(one) for one in written] == [_asked(one) for one in _records(prompts)]


def _asked(record: Mapping[str, str]) -> tuple[str, str, str]:
    return record["id"], record["axis"], record["prompt"]


def _records(prompts: Iterable[Prompt]) -> Iterator[dict[str, str]]:
    seen: set[str] = set()
    for prompt in prompts:
        own_id = prompt.id if prompt.id not in seen else f"{prompt.source}/{prompt.axis}/{prompt.id}"
        seen.add(own_id)
        yield {
            "id": own_id,
            "prompt": prompt.text,
            "axis": prompt.axis,
            "category": prompt.category,
            "source": prompt.source,
        }


def _shares(sizes: dict[str, int], limit: int) -> dict[str, int]:
    total = sum(sizes.values())
    exact = {name: limit * size / total for name, size in sizes.items()}
    counts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: (counts[name] - exact[name], name))[: limit - sum(counts.values())]:
        counts[name] += 1
    return counts


def _without(prompts: Sequence[Prompt], others: Sequence[str]) -> list[Prompt]:
    """The prompts that are no near-duplicate of any text of the others."""
    avoided = [word_set(text) for other in others for text in _texts(other)]
    return [
        prompt
        for prompt in prompts
        if not any(similarity(word_set(prompt.text), words) >= NEAR_DUPLICATE for words in avoided)
    ]


def _texts(other: str) -> list[str]:
    if other == "anchors":
        from ripcurrent.anchors import load_anchors

        return [
            message.content
            for name in ("builtin", "second_family")
            for anchor in load_anchors(name).anchors
            for message in anchor.messages
            if message.role == "user"
        ]
    return [prompt.text for prompt in load_prompts(other).prompts]
