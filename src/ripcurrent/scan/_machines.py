"""Where the workers of a cluster find a place: machines, and the cores that each worker gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Machine(NamedTuple):
    """A machine of the cluster."""

    cores: int
    """Processor cores that Ray may give out."""
    gpus: int
    """GPUs that Ray may give out."""


def cores_each(machines: Sequence[Machine], workers: int, *, with_gpu: bool) -> int:
    """The most cores that every worker can have so that all find a place; 0 where they do not.

    A worker lies on one machine. With equal shares of all cores those of a small machine would wait for ever.
    """

    def places(cores: int) -> int:
        return sum(min(one.cores // cores, one.gpus) if with_gpu else one.cores // cores for one in machines)

    most = max((one.cores for one in machines), default=0)
    return next((cores for cores in range(most, 0, -1) if places(cores) >= workers), 0)
