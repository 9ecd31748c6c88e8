"""Where Ray's workers find a place, and workers that ask for a GPU: none is needed, Ray takes their number on trust."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.scan._machines import Machine, cores_each
from ripcurrent.scan._ray import ALONE, RayExecutor
from tests.scan.ray_stage import ROWS
from tests.scan.test_ray import SHARDS, notes, run, values

# read when Ray is first imported, which is here
os.environ.update(ALONE)
ray = pytest.importorskip("ray")

__all__ = ["notes"]


@pytest.mark.parametrize(
    ("machines", "workers", "with_gpu", "cores"),
    [
        ([(2, 0)], 1, False, 2),
        ([(2, 0)], 2, False, 1),
        ([(2, 0)], 3, False, 0),
        # eight GPUs beside 32 cores, and a machine of 64 without any: 96 / 8 would leave six of them idle
        ([(32, 8), (64, 0)], 8, True, 4),
        ([(32, 8), (64, 0)], 2, True, 16),
        ([(4, 8)], 8, True, 0),
        # one worker for each of two unequal machines
        ([(4, 0), (64, 0)], 3, False, 21),
        ([(16, 1), (16, 1)], 2, True, 16),
        ([], 1, False, 0),
    ],
)
def test_every_worker_finds_a_place_on_one_machine(
    machines: list[tuple[int, int]], workers: int, with_gpu: bool, cores: int
) -> None:
    assert cores_each([Machine(*one) for one in machines], workers, with_gpu=with_gpu) == cores


def test_workers_with_a_gpu_each(tmp_path: Path, notes: Path) -> None:
    # Ray takes the number on trust: no GPU is used by this stage
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        told = run(RayExecutor(use_gpu=True), tmp_path / "shards", notes, wait=0.2)
        assert told == [(number, True) for number in range(SHARDS)]
        assert values(tmp_path / "shards") == [7 * number for number in range(ROWS)]
        with pytest.raises(RipcurrentError, match=r"The cluster has 2 GPUs for 3 workers"):
            run(RayExecutor(workers=3, use_gpu=True), tmp_path / "more", notes)
    finally:
        ray.shutdown()
