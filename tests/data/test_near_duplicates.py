"""Near-duplicates against a plain loop over all pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.data import NEAR_DUPLICATE, count_near_duplicates, similarity, word_set

WORDS = st.sampled_from(["gull", "tern", "auk", "skua", "loon", "the", "of", "crab", "ray"])


@given(st.lists(st.lists(WORDS, max_size=8), max_size=25))
def test_they_are_those_of_a_plain_loop(words: list[list[str]]) -> None:
    sentences = [" ".join(sentence) for sentence in words]
    sets = [word_set(sentence) for sentence in sentences]
    repeats = [any(similarity(one, other) >= NEAR_DUPLICATE for other in sets[:at]) for at, one in enumerate(sets)]
    assert count_near_duplicates(sentences) == sum(repeats)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("How do I paint a red boat?", "Paint the red boat!", 1.0),
        ("paint red boat", "paint blue boat", 0.5),
        ("red boat", "red boat quickly", 0.0),
    ],
)
def test_what_counts_as_similar(one: str, other: str, alike: float) -> None:
    assert similarity(word_set(one), word_set(other)) == alike
