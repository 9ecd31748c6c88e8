"""When freed memory is given back to the system."""

import subprocess
import sys

import pytest

from ripcurrent.models import FreedMemory, _machine


@pytest.mark.parametrize(
    ("held", "left", "given_back"),
    [
        ([300, 290, 499, 501, 300, 502], 100, [501, 502]),
        # what cannot be given back is not tried after every batch
        ([300, 600, 610, 700, 790, 810], 999, [600, 810]),
        # small batches do not make it busy
        ([101, 102, 164, 103], 100, []),
    ],
)
def test_machine_is_given_back_once_it_grew_twice_as_far_as_by_the_first_batch(held, left, given_back, monkeypatch):
    """In MiB: what the process holds after each batch, what giving back leaves, and when it is given back."""
    now, tried = [100], []

    def give_back() -> None:
        tried.append(now[0])
        now[0] = min(now[0], left)

    monkeypatch.setattr(_machine, "resident_bytes", lambda: now[0] * 2**20)
    monkeypatch.setattr(_machine, "give_back_freed_memory", give_back)
    freed = FreedMemory()
    for mebibytes in held:
        freed.before_first()
        now[0] = mebibytes
        freed.after_batch()
    assert tried == [100, *given_back]


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells what a process holds on Linux alone")
def test_what_the_process_holds_is_read():
    # in a process of its own: one that ran tests has freed memory to give
    code = (
        "import torch; from ripcurrent.models import memory_in_use; cpu = torch.device('cpu'); torch.ones(2**10)\n"
        "before = memory_in_use(cpu); kept = torch.ones(2**24); print(memory_in_use(cpu) - before)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50e6 < int(found.stdout) < 100e6
