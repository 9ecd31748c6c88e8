"""A batch that runs out of memory is measured in halves, with the same results; a row that does not fit is named."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ripcurrent.data import Row
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.gradients import FeatureReader, GradientPass, stack_directions
from ripcurrent.gradients._hooks import RowProducts
from ripcurrent.gradients._out_of_memory import Halving, is_out_of_memory
from ripcurrent.scan._signal_stage import SignalStage
from tests.gradients.oracle import chat_model, random_directions, random_rows
from tests.models.tiny import tiny_model, tiny_tokenizer

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


def make_stage() -> SignalStage:
    """A stage of a tiny model with two random directions and three anchors' features."""
    model = tiny_model("llama_tied")
    found = dataclasses.replace(chat_model(model), tokenizer=tiny_tokenizer())
    gradient_pass = GradientPass(found)
    directions = random_directions(model, set(gradient_pass.layers.parameter_shapes()))
    generator = np.random.default_rng(0)
    features = generator.standard_normal((3, 32)).astype(np.float32)
    return SignalStage(
        chat_model=found,
        token_budget=4000,
        gradient_pass=gradient_pass,
        directions=stack_directions(gradient_pass.layers, directions, torch.float32),
        direction_columns=("dot_harmful", "dot_safe"),
        features=FeatureReader(found),
        anchor_features=features / np.linalg.norm(features, axis=1, keepdims=True),
    )


@pytest.fixture(scope="module")
def stage() -> SignalStage:
    return make_stage()


def rows(count: int = 13) -> list[Row]:
    return [Row(n, str(n), (), "the old mill " * (1 + n % 5) + f"number {n}", {}) for n in range(count)]


def fresh(stage: SignalStage, **changes: Any) -> SignalStage:
    return dataclasses.replace(stage, halving=Halving(), **changes)


def assert_same(one: Any, other: Any) -> None:
    """Within the tolerances that hold for any two ways to batch."""
    assert one["status"].to_pylist() == other["status"].to_pylist()
    norm = np.sqrt(one["squared_norm"].to_numpy())
    np.testing.assert_allclose(np.sqrt(other["squared_norm"].to_numpy()), norm, rtol=1e-4)
    for name in ("dot_harmful", "dot_safe"):
        # the directions are random and long: their norms are about the root of the number of parameters
        np.testing.assert_allclose(other[name].to_numpy() / norm, one[name].to_numpy() / norm, atol=2e-5 * 200)
    for ours, theirs in zip(*(t["representation_cosines"].to_pylist() for t in (one, other)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("kind", ERRORS)
def test_results_are_those_of_a_stage_that_had_the_room(
    stage: SignalStage, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fresh(stage)(rows())
    assert set(whole["batch"].to_pylist()) == {0}
    real = GradientPass.measure

    def measure(self: Any, batch: Any, *rest: Any) -> Any:
        if batch.ids.numel() > 70:
            raise ERRORS[kind]()
        return real(self, batch, *rest)

    monkeypatch.setattr(GradientPass, "measure", measure)
    told: list[int] = []
    tight = fresh(stage, on_rows=told.append)
    halved = tight(rows())
    assert_same(whole, halved)
    assert len(set(halved["batch"].to_pylist())) > 2
    assert sum(told) == 13
    assert tight.halving.batches_halved >= 2


def test_running_out_inside_the_backward_pass_leaves_nothing_behind(
    stage: SignalStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fresh(stage)(rows())
    real = RowProducts.linear_hook
    calls = iter(range(10**6))

    def linear_hook(self: Any, number: int, member: int, grad: Any) -> None:
        if grad.shape[0] > 4 and next(calls) % 3 == 2:
            raise ERRORS["cpu"]()
        real(self, number, member, grad)

    monkeypatch.setattr(RowProducts, "linear_hook", linear_hook)
    assert_same(whole, fresh(stage)(rows()))


def test_a_size_that_ran_out_is_not_tried_again(stage: SignalStage, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = GradientPass.measure

    def measure(self: Any, batch: Any, *rest: Any) -> Any:
        sizes.append(batch.ids.numel())
        if batch.ids.numel() > 100:
            raise ERRORS["cuda"]()
        return real(self, batch, *rest)

    monkeypatch.setattr(GradientPass, "measure", measure)
    tight = fresh(stage)
    tight(rows())
    first = len([size for size in sizes if size > 100])
    assert first == tight.halving.batches_halved > 0
    sizes.clear()
    tight(rows())
    assert not [size for size in sizes if size > 100]


def test_what_is_kept_for_later_batches_is_given_back_where_one_runs_out(
    stage: SignalStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values of a shared system prompt could be what a single row lacks room for."""
    reader = FeatureReader(stage.chat_model)
    kept: Any = reader._prefixes._kept
    kept[b"an earlier prompt"] = None
    real, ran_out = FeatureReader.forward, False

    def forward(self: FeatureReader, batch: Any) -> Any:
        nonlocal ran_out
        if not ran_out:
            ran_out = True
            raise ERRORS["cuda"]()
        assert not kept
        return real(self, batch)

    monkeypatch.setattr(FeatureReader, "forward", forward)
    fresh(stage, gradient_pass=None, directions=None, direction_columns=(), features=reader)(rows())
    assert ran_out


def test_one_row_that_does_not_fit_is_named(stage: SignalStage, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: Any, batch: Any, *rest: Any) -> Any:
        raise ERRORS["cpu"]()

    monkeypatch.setattr(GradientPass, "measure", measure)
    with pytest.raises(RipcurrentError, match=r"Row \d+, \d+ tokens on its own, does not fit into memory") as caught:
        fresh(stage)(rows())
    assert caught.value.code is ExitCode.NOT_MEASURED
    assert "--max-tokens" in caught.value.hint


def test_other_errors_are_not_taken_for_it(stage: SignalStage, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: Any, batch: Any, *rest: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(GradientPass, "measure", measure)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fresh(stage)(rows())
    assert not is_out_of_memory(ValueError("out of memory"))


def test_every_place_has_its_turn_once_whatever_fits() -> None:
    encoded = random_rows(np.random.default_rng(1), 31)
    for room in (24, 60, 200, 10_000):
        halving = Halving()

        def measure(group: Any, room: int = room) -> int:
            if len(group) * max(len(row.tokens) for row in group) > room:
                raise ERRORS["cuda"]()
            return len(group)

        groups = [places for places, _ in halving(encoded, range(31), measure)]
        assert [place for places in groups for place in places] == list(range(31))
        assert (halving.batches_halved > 0) == (room < 10_000)


LIMITED = """
import resource, torch
from tests.gradients.test_halving import fresh, rows
import tests.gradients.test_halving as here
torch.set_num_threads(1)
stage = here.make_stage()
many = rows(1200)
usual = fresh(stage, token_budget=512)(many)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 200 * 2**20, resource.RLIM_INFINITY))
tight = fresh(stage, token_budget=2**20)
found = tight(many)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
here.assert_same(usual, found)
print("halved", tight.halving.batches_halved)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits a process's address space so")
def test_a_limit_of_the_system_itself_is_lived_with() -> None:
    """The allocator's own failure, not an imitation: the process may take 200 MB more, and the batch wants more."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 0
