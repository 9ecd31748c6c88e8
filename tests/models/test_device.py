"""How memory and devices are set up."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
from pathlib import Path

import torch

from ripcurrent.models import freed_memory_kept


def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


before = faults()
with freed_memory_kept():
    faults()
    kept = faults()
    within = resident()
print(before, kept, within - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
@pytest.mark.parametrize("environ", [{}, {"MALLOC_TRIM_THRESHOLD_": "1"}], ids=["alone", "the user decides"])
def test_freed_memory_is_used_again(environ: dict[str, str]) -> None:
    each = 4 * 2**24 // os.sysconf("SC_PAGE_SIZE")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    told = subprocess.run([sys.executable, "-c", FAULTS], env=plain | environ, capture_output=True, check=True)
    before, kept, given_back = map(int, told.stdout.split())
    assert before >= 10 * each
    if environ:
        assert kept >= 10 * each
    else:
        assert kept < each / 2
        assert given_back > each / 2, "what was kept goes back at the end"
