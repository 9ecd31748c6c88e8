"""Batches, shards with completion markers, resume, and the executors that run them."""

from ripcurrent.engine._batches import plan_batches
from ripcurrent.engine._executor import LocalExecutor, Stage
from ripcurrent.engine._parts import Part, bind_local_gpu, count_shards, parse_part, shard_of
from ripcurrent.engine._ray import RayExecutor
from ripcurrent.engine._ray_worker import StoredArray
from ripcurrent.engine._shards import Shard, ShardFolder

__all__ = [
    "LocalExecutor",
    "Part",
    "RayExecutor",
    "Shard",
    "ShardFolder",
    "Stage",
    "StoredArray",
    "bind_local_gpu",
    "count_shards",
    "parse_part",
    "plan_batches",
    "shard_of",
]
