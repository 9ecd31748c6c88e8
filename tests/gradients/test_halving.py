"""A batch that runs out of memory is measured in halves, with the same results; a row that does not fit is named."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.gradients import Directions, GradientPass, Halving, make_batch
from tests.gradients.oracle import chat_model, random_rows, random_stack
from tests.models.tiny import tiny_model

CPU_SAYS = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)
ERRORS: dict[str, Callable[[], BaseException]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "cpu": lambda: RuntimeError(f"{CPU_SAYS} 8589934592 bytes. Error code 12 (Cannot allocate memory)"),
    "numpy": lambda: MemoryError("Unable to allocate 2.00 GiB"),
    "mps": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 9.1 GB)"),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}
ROWS = random_rows(np.random.default_rng(1), 13)


@cache
def make_pass() -> tuple[GradientPass, Directions]:
    model = tiny_model("llama_tied")
    gradient_pass = GradientPass(chat_model(model))
    return gradient_pass, random_stack(model, gradient_pass)


def measured(tiny: tuple[GradientPass, Directions], halving: Halving, rows: Any = ROWS, room: float = 1e9) -> Any:
    """Normalised dots of all rows, begun as one batch, and the sizes that were tried; ``room`` tokens fit."""
    gradient_pass, directions = tiny
    found, sizes = np.full((len(rows), 2), np.nan), []

    errors = (ERRORS[kind]() for _ in range(99) for kind in ERRORS)
    for places in halving.groups(rows, [range(len(rows))]):
        assert np.isnan(found[places]).all(), "each row has its turn once"
        batch = make_batch([rows[place] for place in places], gradient_pass.device)
        sizes.append(batch.ids.numel())
        with halving.attempt():
            if sizes[-1] > room:
                raise next(errors)
            signals = gradient_pass.measure(batch, directions)
            found[places] = signals.dots / np.sqrt(signals.squared_norm)[:, None]
    assert not np.isnan(found).any()
    return found, sizes


def assert_close(one: Any, other: Any) -> None:
    """The directions are random and long: their norms are about the root of the number of parameters."""
    np.testing.assert_allclose(one, other, atol=2e-5 * 200)


@pytest.mark.parametrize("room", [24, 60, 200])
def test_halves_give_the_results_of_the_whole_and_remember_what_did_not_fit(room):
    tiny = make_pass()
    whole, _ = measured(tiny, Halving())
    halving = Halving()
    halves, sizes = measured(tiny, halving, room=room)
    assert_close(halves, whole)
    assert len([size for size in sizes if size > room]) == halving.batches_halved > 0
    assert max(measured(tiny, halving, room=room)[1]) <= room, "a size that ran out is not tried again"


def test_one_row_that_does_not_fit_is_named():
    def refuse() -> None:
        halving = Halving()
        for _ in halving.groups(ROWS, [range(13)]):
            with halving.attempt():
                raise ERRORS["cpu"]()

    with pytest.raises(RipcurrentError, match=r"Row \d+, \d+ tokens on its own, does not fit into memory") as caught:
        refuse()
    assert caught.value.code is ExitCode.NOT_MEASURED
    assert "--max-tokens" in caught.value.hint


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 do not fit"), ValueError("out of memory")])
def test_other_errors_are_not_taken_for_it(error):
    with pytest.raises(type(error), match=str(error)), Halving().attempt():
        raise error


LIMITED = """
import resource, numpy, torch
import tests.gradients.test_halving as here
torch.set_num_threads(1)
tiny, halving, many = here.make_pass(), here.Halving(), here.random_rows(numpy.random.default_rng(2), 1200, longest=60)
usual, _ = here.measured(tiny, here.Halving(), many, room=512)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 200 * 2**20, resource.RLIM_INFINITY))
found, _ = here.measured(tiny, halving, many)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
here.assert_close(usual, found)
print("halved", halving.batches_halved)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits a process's address space so")
def test_a_limit_of_the_system_itself_is_lived_with():
    """The allocator's own failure, not an imitation: the process may take 200 MB more, and the batch wants more."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 0
