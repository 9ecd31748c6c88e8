"""Batches, shards with completion markers, resume, and the executors that run them."""

from ripcurrent.engine._batches import plan_batches
from ripcurrent.engine._executor import LocalExecutor, Stage
from ripcurrent.engine._shards import Shard, ShardFolder

__all__ = ["LocalExecutor", "Shard", "ShardFolder", "Stage", "plan_batches"]
