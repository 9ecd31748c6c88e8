"""Categories of requests under one name, where lists call the same thing by different ones."""

from __future__ import annotations

import re

SYNONYMS: dict[str, tuple[str, ...]] = {
    "illegal acts": ("illegal", "illegal goods and services", "illegal activity", "non-violent crimes"),
    "violence": ("violence", "physical harm", "violent crimes"),
    "hate and harassment": (
        "harassment bullying",
        "harassment/discrimination",
        "hate, harassment and discrimination",
        "hate and discrimination",
        "harassment and stalking",
    ),
    "deception": (
        "misinformation disinformation",
        "disinformation",
        "disinformation and deception",
        "fraud/deception",
        "fraud and scams",
    ),
    "computer crime": ("cybercrime intrusion", "malware/hacking", "cybercrime"),
    "chemical and biological hazards": ("chemical biological", "chemical and biological hazards"),
    "sexual content": ("sexual content", "sexual/adult content"),
    "privacy": ("privacy", "privacy violation"),
}
"""One name to the labels it stands for, lower-case with spaces for underscores."""

_BY_LABEL = {label: name for name, labels in SYNONYMS.items() for label in labels}


def merged_category(label: str) -> str:
    """The name of a category under which lists that call it differently meet; the label itself where none is known."""
    plain = re.sub(r"[_\s]+", " ", label.strip().lower())
    return _BY_LABEL.get(plain, plain)
