"""A simulation of a scan's scheduler: ``python -m bench.scheduler``. Workers straggle and fail; the plan is checked.

Two ways of giving shards out, as the product has them: to each worker of a pool the next shard in line (``--executor
ray``), or to each process a fixed range (``--shard i/n``, given again when it died). Seeded, without a clock.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ripcurrent.scan._ray import TASKS

PASSES = 3.75
"""Plain forward passes that a row's gradient signals cost (docs/benchmarks.md, mean 201 tokens, dense directions)."""
TOKENS = 180
"""Mean tokens of a row, as in an Alpaca-like set."""
FLOPS = 280e12
"""Useful FLOP/s of a GPU: assumed, 35 % of 800e12. No GPU was measured."""
SHARD_ROWS = 256
"""Rows of a shard, as the product has them."""


@dataclass(frozen=True, slots=True)
class Job:
    """A scan as its scheduler sees it."""

    name: str
    """What it is."""
    shards: int
    """How many."""
    shard_seconds: float
    """Seconds a shard takes a worker of full speed, on average."""
    workers: int
    """Processes, a GPU each."""
    start_seconds: float
    """From a process's start to its first shard: the model is loaded, directions are fetched."""
    spread: float = 0.05
    """Standard deviation of the logarithm of a shard's seconds: its rows are longer or shorter."""
    slow_share: float = 0.0
    """Share of the workers that are stragglers."""
    slow_factor: float = 3.0
    """A straggler takes so many times as long."""
    hours_between_failures: float = math.inf
    """Mean hours of a worker's life; the next one starts at once."""
    in_flight: int = 2
    """Tasks that a worker of the pool holds at once, the running one included."""
    seed: int = 0
    """Of everything random."""


@dataclass(slots=True)
class Outcome:
    """What a simulated run was."""

    seconds: float = 0.0
    """Until the last shard was done."""
    done: Counter[int] = field(default_factory=Counter)
    """How often each task was finished."""
    begun: Counter[int] = field(default_factory=Counter)
    """How often each task was begun."""
    failures: int = 0
    """Workers that died over a task."""
    busy_seconds: float = 0.0
    """Worker seconds spent on what counted."""
    lost_seconds: float = 0.0
    """Worker seconds spent on what was computed again, and on starting anew."""


Mode = Literal["pool", "ranges"]


def job_of(name: str, rows: int, parameters: float, workers: int, start_seconds: float) -> Job:
    """A scan with gradients, by the cost model."""
    flops = SHARD_ROWS * TOKENS * 2 * parameters * PASSES
    return Job(name, math.ceil(rows / SHARD_ROWS), flops / FLOPS, workers, start_seconds)


def plan_seconds(job: Job) -> float:
    """The plan: start once, then the work divided by the speed of all; no deaths, nobody waits at the end."""
    slow = round(job.workers * job.slow_share)
    speed = (job.workers - slow) + slow / job.slow_factor
    return job.start_seconds + job.shards * job.shard_seconds / speed


def tasks_of(job: Job, mode: Mode) -> list[int]:
    """Shards of each task: those of a pool are handed out several at once, a range goes shard by shard."""
    tasks = min(job.shards, TASKS) if mode == "pool" else job.shards
    return [job.shards * (n + 1) // tasks - job.shards * n // tasks for n in range(tasks)]


def simulate(job: Job, mode: Mode) -> Outcome:
    """Run a job to its end.

    A pool's worker that dies has its task begun anew by whoever is free first, as Ray does, all shards of it. A process
    with a range of its own goes on behind its last finished shard.
    """
    random = np.random.default_rng(job.seed)
    shards = tasks_of(job, mode)
    tasks = len(shards)
    # log-normal, of mean one
    size = random.lognormal(-(job.spread**2) / 2, job.spread, tasks) * job.shard_seconds
    slow = set(random.permutation(job.workers)[: round(job.workers * job.slow_share)].tolist())
    factor = [job.slow_factor if worker in slow else 1.0 for worker in range(job.workers)]
    mean = job.hours_between_failures * 3600
    life = [random.exponential(mean) if math.isfinite(mean) else math.inf for _ in range(job.workers)]
    line = deque(range(tasks) if mode == "pool" else ())
    held = [
        deque(range(tasks * worker // job.workers, tasks * (worker + 1) // job.workers) if mode == "ranges" else ())
        for worker in range(job.workers)
    ]
    returned: list[tuple[float, int]] = []
    free = [(job.start_seconds, worker) for worker in range(job.workers)]
    idle: set[int] = set()
    outcome = Outcome()
    while free:
        now, worker = heapq.heappop(free)
        mine = held[worker]
        while mode == "pool" and len(mine) < job.in_flight and (line or (returned and returned[0][0] <= now)):
            mine.append(heapq.heappop(returned)[1] if returned and returned[0][0] <= now else line.popleft())
        if not mine:
            if returned:
                heapq.heappush(free, (returned[0][0], worker))
            else:
                idle.add(worker)
            continue
        task = mine.popleft()
        outcome.begun[task] += 1
        shard = size[task] * factor[worker]
        end = now + shard * shards[task]
        if life[worker] >= end:
            outcome.done[task] += 1
            outcome.busy_seconds += end - now
            outcome.seconds = max(outcome.seconds, end)
            heapq.heappush(free, (end, worker))
            continue
        died = max(life[worker], now)
        back = died + job.start_seconds
        life[worker] = back + random.exponential(mean)
        outcome.failures += 1
        outcome.lost_seconds += back - now
        heapq.heappush(free, (back, worker))
        if mode == "pool":
            for other in (task, *mine):
                heapq.heappush(returned, (died, other))
            mine.clear()
            while idle:
                heapq.heappush(free, (died, idle.pop()))
        else:
            kept = int((died - now) // shard)
            outcome.busy_seconds += kept * shard
            outcome.lost_seconds -= kept * shard
            shards[task] -= kept
            mine.appendleft(task)
    return outcome


MILLION = job_of("1 M rows × 8B, 8 GPUs", 1_000_000, 8e9, workers=8, start_seconds=120)
HUNDRED_MILLION = job_of("100 M rows × 1B, 64 GPUs", 100_000_000, 1e9, workers=64, start_seconds=60)


def cases(seed: int) -> list[tuple[str, Job]]:
    """What each plan meets: nothing, stragglers, deaths, both."""
    slow = {"slow_share": 0.125, "slow_factor": 3.0}
    dying = {"hours_between_failures": 24.0}
    return [
        (what, replace(job, seed=seed, **changes))
        for job in (MILLION, HUNDRED_MILLION)
        for what, changes in (
            ("nothing", {}),
            ("one worker in eight is 3 times as slow", slow),
            ("a worker lives 24 hours on average", dying),
            ("both", {**slow, **dying}),
        )
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of shard sizes, stragglers and deaths")
    seed = parser.parse_args().seed
    print("| plan | what happens | planned | pool | ranges | deaths in the pool | lost in the pool |")
    print("|---|---|---|---|---|---|---|")
    whole = True
    for what, job in cases(seed):
        pool, ranges = simulate(job, "pool"), simulate(job, "ranges")
        for mode, outcome in (("pool", pool), ("ranges", ranges)):
            whole &= outcome.done == Counter(range(len(tasks_of(job, mode))))
        planned = plan_seconds(job)
        lost = pool.lost_seconds / (pool.lost_seconds + pool.busy_seconds)
        times = " | ".join(f"{o.seconds / 3600:.2f} h ({o.seconds / planned - 1:+.1%})" for o in (pool, ranges))
        print(f"| {job.name} | {what} | {planned / 3600:.2f} h | {times} | {pool.failures} | {lost:.1%} |")
    print(f"\nEvery shard done exactly once: {'yes' if whole else 'NO'}")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
