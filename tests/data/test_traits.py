"""Format traits, the phrase list of the safety pre-filter, and near-duplicates against a plain loop over all pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.data import (
    NEAR_DUPLICATE,
    REFUSAL_PHRASES,
    count_near_duplicates,
    has_refusal,
    read_rows,
    similarity,
    traits_of,
    word_set,
)


@pytest.mark.parametrize(
    ("text", "traits"),
    [
        ("1. Wash up.\n2. Wipe the table.", {"is_list", "is_numbered", "opens_numbered"}),
        ("Do this:\n\n1) Wash up.\n\n2) Wipe.", {"is_list", "is_numbered"}),
        ("1.Wash\r\n2.Wipe", {"is_list", "is_numbered", "opens_numbered"}),
        ("- Wash up\n- Wipe", {"is_list", "is_bullet"}),
        ("• Wash\n  ◦ Wipe", {"is_list", "is_bullet"}),
        ("1. Wash\n- the plates", {"is_list", "opens_numbered"}),
        ("Step 1: Wash\nStep 2: Wipe", {"is_list", "is_numbered", "opens_numbered"}),
        ("\n 1. Only one point.", {"opens_numbered"}),
        ("(555) 123-4567, or 2. if that is taken.", set()),
        ("---\n***\n- - -", set()),
        ("12 boats came in.\n3.5 million people saw them.", set()),
        ("The sum is 3 + 4 = 7.", {"is_maths"}),
        ("He has 48/2 = <<48/2=24>>24 left.", {"is_maths"}),
        ("The slope is \\frac{1}{2}.", {"is_maths"}),
        ("Take 1/2 cup of flour; we are here 24/7, on 12-13 May.", set()),
        ("```python\nprint('a')\n```", {"is_code"}),
        ("def tide(hour):\n    return hour", {"is_code"}),
        ("SELECT name FROM boats;", {"is_code"}),
        ("import os", {"is_code"}),
        ("from a.b import c, d as e", {"is_code"}),
        ("public static void main(String[] args) {", {"is_code"}),
        ("const [a, b] = pair;", {"is_code"}),
        # no longer than their length: these would take hours where parts of a pattern share white space
        *((f"{word}{' ' * 30_000}!", set()) for word in ("let", "public", "import", "from a import b")),
        ("<<" + "=" * 30_000, set()),
        ("import" + " a" * 15_000 + "!", set()),
        ("We import goods from abroad and print them.", set()),
        ("For a while we class it as a function of time.", set()),
        ("", set()),
    ],
)
def test_traits(text, traits):
    found = traits_of(text)
    names = ("is_list", "is_bullet", "is_numbered", "opens_numbered", "is_maths", "is_code")
    assert {name for name in names if getattr(found, name)} == traits


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        *((text, True) for text in ("I’m SORRY, but no.", "As an AI, I cannot.", "It is unethical.", "Mind BIAS.")),
        *((text, False) for text in ("Sure, here is a list of boats.", "The tide turns at noon.", "")),
        *((f"x {phrase.upper()} x", True) for phrase in REFUSAL_PHRASES),
    ],
)
def test_refusal_and_ethics_wording_is_found_in_any_case(text, refuses):
    assert has_refusal(text) == traits_of(text).has_refusal == refuses


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "trait", "least", "most"),
    [
        # as published
        ("published/alpaca_gradient_top100.json", "is_list", 0.70, 0.74),
        ("published/alpaca_gradient_bottom100.json", "is_list", 0.0, 0.0),
        ("published/alpaca_representation_bottom100.json", "is_list", 0.22, 0.32),
        ("rows/gsm8k_test.jsonl", "is_maths", 0.98, 1.0),
        ("rows/alpaca_en_demo.json", "is_code", 0.0, 0.2),
        # what the published filter removes, and what it leaves
        ("rows/alpaca_safety_only.json", "has_refusal", 0.9, 1.0),
        ("rows/instruction-data.json", "has_refusal", 0.0, 0.02),
    ],
)
def test_shares_in_published_sets(data_folder, file, trait, least, most):
    rows = list(read_rows(data_folder / file))
    assert not any(row.problem for row in rows)
    found = [getattr(traits_of(row.response), trait) for row in rows]
    assert least <= sum(found) / len(found) <= most


def test_thoughts_are_no_part_of_the_format():
    thought = "<think>\nI should not refuse. 1. See. 2. 3 + 4 = 7\n</think>\n"
    found = traits_of(thought + "It is warm today.")
    assert not any((found.is_list, found.is_maths, found.has_refusal, found.opens_numbered))
    assert traits_of(thought + "1. Boil water.\n2. Add tea.").opens_numbered
    # where nothing else is said, what is thought is the response
    assert traits_of(thought).is_maths


WORDS = st.sampled_from(["gull", "tern", "auk", "skua", "loon", "the", "of", "crab", "ray"])


@given(st.lists(st.lists(WORDS, max_size=8), max_size=25))
def test_they_are_those_of_a_plain_loop(words):
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
def test_what_counts_as_similar(one, other, alike):
    assert similarity(word_set(one), word_set(other)) == alike
