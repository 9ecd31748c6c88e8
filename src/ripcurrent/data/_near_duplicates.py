"""When two requests are the same request in other words."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

NEAR_DUPLICATE = 0.7
"""Jaccard index of two word sets from which the texts count as near-duplicates."""

STOP_WORDS = frozenset(Path(__file__).with_name("stop_words.txt").read_text(encoding="utf-8").split())
"""Words that say nothing about what is asked."""


def _words(text: str) -> list[str]:
    """The text's words in order, lower-cased, apostrophes dropped."""
    return re.findall(r"[^\W_]+", text.lower().replace("'", "").replace("’", ""))


def word_set(text: str) -> frozenset[str]:
    """The text's lower-cased words without stop words; all its words where nothing else is left."""
    words = frozenset(_words(text))
    return words - STOP_WORDS or words


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard index of two word sets, in [0, 1]; 0 for unequal sets when one has fewer than three words."""
    if min(len(one), len(other)) < 3:
        return float(one == other)
    return len(one & other) / len(one | other)


def count_near_duplicates(texts: Sequence[str]) -> int:
    """How many of the texts repeat, at `NEAR_DUPLICATE` or above, a text that stands before them."""
    sets = [word_set(text) for text in texts]
    spread = Counter(word for words in sets for word in words)
    kept: set[frozenset[str]] = set()
    by_word: defaultdict[str, list[frozenset[str]]] = defaultdict(list)
    count = 0
    for words in sets:
        # Sets this similar share one of their rarest words (prefix filtering), so few pairs are compared.
        rarest = sorted(words, key=lambda word: (spread[word], word))[: len(words) - -(-7 * len(words) // 10) + 1]
        candidates = {other for word in rarest for other in by_word[word]}
        count += words in kept or any(similarity(words, other) >= NEAR_DUPLICATE for other in candidates)
        if words not in kept:
            kept.add(words)
            for word in rarest:
                by_word[word].append(words)
    return count


def hash_of_texts(texts: Iterable[str]) -> str:
    """SHA-256 of the texts' words, one text a line, sorted: container, order, case and punctuation do not matter."""
    lines = sorted(" ".join(_words(text)) for text in texts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
