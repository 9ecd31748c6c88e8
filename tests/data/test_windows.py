"""Long documents cut into windows: nothing lost, nothing twice, none a stub."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripcurrent.data import Message, Row, encode, encode_windows, window_starts
from tests.models.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def document(text: str, index: int = 0) -> Row:
    return Row(index=index, id="", messages=(), text=text, record={})


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abcdefgh ,.\n", min_size=1, max_size=400), st.integers(8, 40))
def test_every_token_but_the_first_bears_loss_in_exactly_one_window(text: str, most: int) -> None:
    whole = TOKENIZER(text)["input_ids"]
    ((windows),) = encode_windows([document(text)], TOKENIZER, max_tokens=most)
    if len(whole) < 2:
        assert [window.status for window in windows] == ["no_loss_tokens"]
        return
    assert all(window.status == "ok" and not window.truncated for window in windows)
    predicted = [int(token) for window in windows for token in window.tokens[window.loss_mask]]
    assert predicted == whole[1:]
    assert [whole[start] for start in window_starts(windows)] == [int(window.tokens[0]) for window in windows]
    assert all(window.response_tokens == window.loss_mask.sum() for window in windows)


@pytest.mark.parametrize(("words", "most"), [(40, 32), (41, 16), (300, 64)])
def test_windows_are_as_few_as_they_can_be_and_nearly_equal(words: int, most: int) -> None:
    text = "boats " * words
    whole = len(TOKENIZER(text)["input_ids"])
    (windows,) = encode_windows([document(text)], TOKENIZER, max_tokens=most)
    lengths = [len(window.tokens) for window in windows]
    assert max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1
    assert len(windows) == int(np.ceil((whole - 1) / (most - 1)))


def test_short_documents_and_other_rows_are_as_usual() -> None:
    talk = (Message("user", "How many boats?"), Message("assistant", "Seven. " * 50))
    rows = [
        document("a short one"),
        Row(index=1, id="", messages=talk, text=None, record={}),
        Row(index=2, id="", messages=(), text=None, record={}, problem="no_response"),
        document("x"),
    ]
    for row, windows in zip(rows, encode_windows(rows, TOKENIZER, max_tokens=64), strict=True):
        usual = encode(row, TOKENIZER, max_tokens=64)
        (window,) = windows
        assert (window.status, window.truncated) == (usual.status, usual.truncated)
        assert window.tokens.tolist() == usual.tokens.tolist()
        assert window.loss_mask.tolist() == usual.loss_mask.tolist()
