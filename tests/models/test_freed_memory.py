"""When freed memory is given back to the system."""

from __future__ import annotations

import sys

import pytest
import torch

from ripcurrent.models import FreedMemory, _freed_memory


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the process holds, in MiB, to be set; giving back takes it to 100 and is counted by a negative entry."""
    now = [100]

    def give_back() -> None:
        now[0] = min(now[0], 100)
        now.append(-1)

    monkeypatch.setattr(_freed_memory, "resident_bytes", lambda: now[0] * 2**20)
    monkeypatch.setattr(_freed_memory, "give_back_freed_memory", give_back)
    return now


def test_memory_is_given_back_once_it_grew_twice_as_far_as_by_the_first_batch(held: list[int]) -> None:
    freed = FreedMemory()
    freed.before_first()
    assert len(held) == 2
    given_back = []
    for mebibytes in (300, 290, 499, 501, 300, 502):
        held[0] = mebibytes
        before = len(held)
        freed.after_batch()
        given_back.append(len(held) - before)
        freed.before_first()
    assert given_back == [0, 0, 0, 1, 0, 1]


def test_what_cannot_be_given_back_is_not_tried_after_every_batch(
    held: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(_freed_memory, "give_back_freed_memory", lambda: tried.append(held[0]))
    freed = FreedMemory()
    freed.before_first()
    for mebibytes in (300, 600, 610, 700, 790, 810):
        held[0] = mebibytes
        freed.after_batch()
    assert tried == [100, 600, 810]


def test_small_batches_do_not_make_it_busy(held: list[int]) -> None:
    freed = FreedMemory()
    freed.before_first()
    for mebibytes in (101, 102, 164, 103):
        held[0] = mebibytes
        freed.after_batch()
    assert held.count(-1) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells what a process holds on Linux alone")
def test_what_the_process_holds_is_read() -> None:
    before = _freed_memory.resident_bytes()
    kept = torch.ones(2**24)
    assert 50e6 < _freed_memory.resident_bytes() - before < 100e6
    assert len(kept) == 2**24
