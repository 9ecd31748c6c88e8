"""The simulated scheduler: no shard lost or doubled, and no faster than arithmetic allows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from bench import scheduler
from bench.scheduler import Job, Mode, plan_seconds, simulate, tasks_of
from hypothesis import given, settings
from hypothesis import strategies as st

jobs = st.builds(
    Job,
    name=st.just("job"),
    shards=st.integers(0, 60),
    shard_seconds=st.floats(1, 50),
    workers=st.integers(1, 9),
    start_seconds=st.floats(0, 100),
    spread=st.floats(0, 1),
    slow_share=st.floats(0, 1),
    slow_factor=st.floats(1, 5),
    # down to a worker that mostly dies before its third shard
    hours_between_failures=st.floats(0.05, 10) | st.just(float("inf")),
    in_flight=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)


@pytest.mark.parametrize("tasks", [7, 10_000], ids=["several shards a task", "a shard a task"])
@pytest.mark.parametrize("mode", ["pool", "ranges"])
def test_every_shard_is_done_exactly_once(monkeypatch: pytest.MonkeyPatch, mode: Mode, tasks: int) -> None:
    monkeypatch.setattr(scheduler, "TASKS", tasks)

    @settings(max_examples=60, deadline=None)
    @given(jobs)
    def holds(job: Job) -> None:
        outcome = simulate(job, mode)
        assert outcome.done == Counter(range(len(tasks_of(job, mode))))
        assert sum(tasks_of(job, mode)) == job.shards
        # what was begun and not finished is what deaths interrupted
        assert outcome.begun.total() - outcome.done.total() == outcome.failures
        assert outcome.seconds * job.workers >= outcome.busy_seconds - 1e-6
        assert outcome == simulate(job, mode)

    holds()


def test_without_mishap_the_plan_holds_to_the_last_round_of_shards() -> None:
    job = Job("even", shards=400, shard_seconds=10, workers=8, start_seconds=60, spread=0)
    modes: tuple[Mode, ...] = ("pool", "ranges")
    for mode in modes:
        assert simulate(job, mode).seconds == pytest.approx(plan_seconds(job))
    assert plan_seconds(job) == 560


def test_a_straggler_holds_up_ranges_and_not_a_pool() -> None:
    job = Job("slow", shards=800, shard_seconds=10, workers=8, start_seconds=0, slow_share=0.125, slow_factor=3.0)
    pool, ranges = simulate(job, "pool"), simulate(job, "ranges")
    assert pool.seconds < plan_seconds(job) * 1.1
    assert ranges.seconds == pytest.approx(3 * 100 * 10, rel=0.1)


def test_deaths_cost_a_pool_what_was_at_work_and_a_start() -> None:
    job = Job("dying", shards=2000, shard_seconds=10, workers=8, start_seconds=30, hours_between_failures=0.5)
    outcome = simulate(job, "pool")
    assert outcome.failures > 5
    assert outcome.lost_seconds <= outcome.failures * (30 + 12)
    assert outcome.seconds > simulate(replace(job, hours_between_failures=float("inf")), "pool").seconds
