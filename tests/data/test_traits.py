"""Format traits, and the phrase list of the safety pre-filter."""

from pathlib import Path

import pytest

from ripcurrent.data import REFUSAL_PHRASES, has_refusal, read_rows, traits_of


@pytest.mark.parametrize(
    ("text", "traits"),
    [
        ("1. Wash up.\n2. Wipe the table.", {"is_list", "is_numbered", "opens_numbered"}),
        ("Do this:\n\n1) Wash up.\n\n2) Wipe.", {"is_list", "is_numbered"}),
        ("1.Wash\r\n2.Wipe", {"is_list", "is_numbered", "opens_numbered"}),
        ("**1. Wash**\n**2. Wipe**", {"is_list", "is_numbered", "opens_numbered"}),
        ("- Wash up\n- Wipe", {"is_list", "is_bullet"}),
        ("• Wash\n  ◦ Wipe", {"is_list", "is_bullet"}),
        ("-Wash\n-Wipe", {"is_list", "is_bullet"}),
        ("1. Wash\n- the plates", {"is_list", "opens_numbered"}),
        ("Step 1: Wash\nStep 2: Wipe", {"is_list", "is_numbered", "opens_numbered"}),
        ("\n 1. Only one point.", {"opens_numbered"}),
        ("(555) 123-4567, or 2. if that is taken.", set()),
        ("1.5 litres of milk.", set()),
        ("Two lines\nof prose.", set()),
        ("---\n***\n- - -", set()),
        ("12 boats came in.\n3.5 million people saw them.", set()),
        ("The sum is 3 + 4 = 7.", {"is_maths"}),
        ("He has 48/2 = <<48/2=24>>24 left.", {"is_maths"}),
        ("Solve x^2 - 4 for x.", {"is_maths"}),
        ("The slope is \\frac{1}{2}.", {"is_maths"}),
        ("Take 1/2 cup of flour; we are here 24/7, on 12-13 May.", set()),
        ("```python\nprint('a')\n```", {"is_code"}),
        ("def tide(hour):\n    return hour", {"is_code"}),
        ("SELECT name FROM boats;", {"is_code"}),
        ("import os", {"is_code"}),
        ("from a.b import c, d as e", {"is_code"}),
        ("public static void main(String[] args) {", {"is_code"}),
        ("let total = price;", {"is_code"}),
        ("const [a, b] = pair;", {"is_code"}),
        ("<<3*4=12>>", {"is_maths"}),
        # no longer than their length: these would take hours where parts of a pattern share white space
        *((f"{word}{' ' * 30_000}!", set()) for word in ("let", "public", "import", "from a import b")),
        ("<<" + "=" * 30_000, set()),
        ("import" + " a" * 15_000 + "!", set()),
        ("We import goods from abroad and print them.", set()),
        ("For a while we class it as a function of time.", set()),
        ("", set()),
    ],
)
def test_traits(text: str, traits: set[str]) -> None:
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
def test_refusal_and_ethics_wording_is_found_in_any_case(text: str, refuses: bool) -> None:
    assert has_refusal(text) == traits_of(text).has_refusal == refuses


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "trait", "least", "most"),
    [
        # as published
        ("published/alpaca_gradient_top100.json", "is_list", 0.70, 0.74),
        ("published/alpaca_gradient_bottom100.json", "is_list", 0.0, 0.0),
        ("published/alpaca_representation_top100.json", "is_list", 0.96, 1.0),
        ("published/alpaca_representation_bottom100.json", "is_list", 0.22, 0.32),
        ("rows/gsm8k_test.jsonl", "is_maths", 0.98, 1.0),
        ("rows/gsm8k_test.jsonl", "is_list", 0.0, 0.02),
        ("rows/gsm8k_test.jsonl", "has_refusal", 0.0, 0.01),
        # what the published filter removes, and what it leaves
        ("rows/alpaca_safety_only.json", "has_refusal", 0.9, 1.0),
        ("rows/dolly_safety_only.jsonl", "has_refusal", 0.8, 1.0),
        ("rows/instruction-data.json", "has_refusal", 0.0, 0.02),
    ],
)
def test_shares_in_published_sets(data_folder: Path, file: str, trait: str, least: float, most: float) -> None:
    found = [getattr(traits_of(row.response), trait) for row in read_rows(data_folder / file)]
    assert least <= sum(found) / len(found) <= most


def test_thoughts_are_no_part_of_the_format() -> None:
    thought = "<think>\nI should not refuse. 1. See. 2. 3 + 4 = 7\n</think>\n"
    found = traits_of(thought + "It is warm today.")
    assert not any((found.is_list, found.is_maths, found.has_refusal, found.opens_numbered))
    assert traits_of(thought + "1. Boil water.\n2. Add tea.").opens_numbered
    # where nothing else is said, what is thought is the response
    assert traits_of(thought).is_maths
