"""Parts: every shard in exactly one, whatever names them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripcurrent.errors import RipcurrentError
from ripcurrent.scan._parts import Part, bind_local_gpu, parse_part, shards_in


@given(st.integers(0, 500), st.integers(1, 9), st.integers(1, 60))
def test_parts_take_every_row_once_in_order_and_shards_evenly(rows: int, size: int, of: int) -> None:
    parts = [shards_in(Part(index, of), rows, size) for index in range(of)]
    shards = [shard for part in parts for shard in part]
    assert shards == shards_in(None, rows, size)
    assert [row for one in shards for row in range(one.start, one.start + one.rows)] == list(range(rows))
    # the last may be short
    assert all(one.rows == size for one in shards[:-1])
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def array_of(task: int, count: int, first: int, last: int) -> dict[str, str]:
    values = {"ID": task, "COUNT": count, "MIN": first, "MAX": last}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def step_of(task: int, count: int, local: int = 0) -> dict[str, str]:
    return {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_PROCID": str(task), "SLURM_LOCALID": str(local)}


@pytest.mark.parametrize(
    ("text", "environment", "part"),
    [
        ("0/1", {}, Part(0, 1)),
        ("3/4", {"RANK": "1", "WORLD_SIZE": "2"}, Part(3, 4)),
        ("auto", array_of(0, 8, 0, 7), Part(0, 8)),
        ("auto", array_of(3, 8, 1, 8), Part(2, 8)),
        ("auto", {"RANK": "5", "WORLD_SIZE": "6"}, Part(5, 6)),
        ("auto", {**array_of(2, 3, 1, 3), "RANK": "3", "WORLD_SIZE": "4"}, Part(7, 12)),
        ("auto", step_of(5, 8), Part(5, 8)),
        ("auto", {**array_of(1, 3, 0, 2), **step_of(5, 8)}, Part(13, 24)),
        # torchrun, which srun started once on each of two machines
        ("auto", {**step_of(1, 2), "RANK": "9", "WORLD_SIZE": "16"}, Part(9, 16)),
        # a batch script of an array is one process, whatever its job asks for
        ("auto", {**array_of(1, 3, 0, 2), "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, Part(1, 3)),
    ],
    ids=str,
)
def test_a_part_by_number_or_from_the_scheduler(text: str, environment: dict[str, str], part: Part) -> None:
    assert parse_part(text, environment) == part


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("4/4", {}, r"no part 4 of 4: parts are counted from 0\.\nWrite 0/4 to 3/4"),
        ("0/0", {}, "no part 0 of 0"),
        ("half", {}, "--shard half is not of the form i/n"),
        ("-1/4", {}, "not of the form"),
        ("auto", {}, "neither a SLURM array, nor srun with several tasks, nor torchrun"),
        ("auto", {"RANK": "0"}, "neither a SLURM array, nor srun with several tasks, nor torchrun"),
        ("auto", {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, "neither a SLURM array, nor srun"),
        ("auto", array_of(5, 2, 2, 5), "2 tasks with ids from 2 to 5: auto needs ids without gaps"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_COUNT"),
        ("auto", {"RANK": "4", "WORLD_SIZE": "4"}, "part 4 of 4"),
    ],
    ids=str,
)
def test_what_names_no_part_is_refused(text: str, environment: dict[str, str], said: str) -> None:
    with pytest.raises(RipcurrentError, match=said):
        parse_part(text, environment)


@pytest.mark.parametrize(
    ("environment", "visible"),
    [
        ({}, None),
        ({"LOCAL_RANK": "2"}, "2"),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,5"}, "5"),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "7"}, "7"),
        ({"CUDA_VISIBLE_DEVICES": "4,5"}, "4,5"),
        ({**step_of(9, 16, 1), "CUDA_VISIBLE_DEVICES": "4,5"}, "5"),
        ({**step_of(9, 16, 1), "CUDA_VISIBLE_DEVICES": "7"}, "7"),
        ({**step_of(1, 2, 0), "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,5"}, "5"),
        ({**step_of(0, 1, 0), "CUDA_VISIBLE_DEVICES": "4,5"}, "4,5"),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": ""}, ""),
    ],
    ids=str,
)
def test_each_of_torchruns_or_sruns_processes_sees_its_own_gpu(
    environment: dict[str, str], visible: str | None
) -> None:
    found = dict(environment)
    bind_local_gpu(found)
    assert found.get("CUDA_VISIBLE_DEVICES") == visible


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(RipcurrentError, match="Process 2 of this machine has no GPU: CUDA_VISIBLE_DEVICES names 2"):
        bind_local_gpu({"LOCAL_RANK": "2", "CUDA_VISIBLE_DEVICES": "4,5"})


def test_more_processes_than_a_machine_has_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    environment = {"LOCAL_RANK": "3"}
    bind_local_gpu(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    with pytest.raises(RipcurrentError, match="Process 5 of this machine has no GPU: there are 4"):
        bind_local_gpu({"LOCAL_RANK": "5"})
