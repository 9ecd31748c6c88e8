"""Parts of prompt sets: categories that lists name differently, and samples that keep their shares."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from ripcurrent.evaluate._prompts import Prompt
from ripcurrent.runs import written_whole

_SYNONYMS = yaml.safe_load(Path(__file__).with_name("categories.yaml").read_text(encoding="utf-8"))
_BY_LABEL: dict[str, str] = {label: name for name, labels in _SYNONYMS.items() for label in labels}


@cache
def merged_category(label: str) -> str:
    """The name of a category under which lists that call it differently meet; the label itself where none is known."""
    plain = re.sub(r"[_\s]+", " ", label.strip().lower())
    return _BY_LABEL.get(plain, plain)


def stratified(prompts: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """At most ``limit`` prompts of each axis, every category (synonyms merged) by its share; in the list's order.

    It draws the same ones every time. Parts of a share below a whole prompt go to the largest remainders.
    """
    if limit is None:
        return list(prompts)
    by_axis: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, prompt in enumerate(prompts):
        by_axis[prompt.axis][merged_category(prompt.category)].append(place)
    random = np.random.default_rng(0)
    chosen: list[int] = []
    for strata in by_axis.values():
        total = sum(map(len, strata.values()))
        exact = {name: min(limit, total) * len(members) / total for name, members in strata.items()}
        counts = {name: int(value) for name, value in exact.items()}
        by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
        for name in by_remainder[: min(limit, total) - sum(counts.values())]:
            counts[name] += 1
        for name in sorted(strata):
            chosen += random.permutation(strata[name])[: counts[name]].tolist()
    return [prompts[place] for place in sorted(chosen)]


def keep_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write what every arm is asked, as one file with ids unique over all sources, unless that is done."""
    if path.exists():
        return
    seen = set[str]()
    with written_whole(path) as part, part.open("w", encoding="utf-8") as file:
        for one in prompts:
            own = one.id if one.id not in seen else f"{one.source}/{one.axis}/{one.id}"
            seen.add(own)
            record = {"id": own, "prompt": one.text, "axis": one.axis, "category": one.category, "source": one.source}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
