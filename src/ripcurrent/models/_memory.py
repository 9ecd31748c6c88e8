"""What the process and its devices hold, the most that they have held, and giving back what was freed."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import torch

_PROCESS = torch.device("cpu")
_BEFORE_RESET: dict[torch.device, int] = {}
"""The peaks before the last reset, which the system forgets: of the process, and of each CUDA device."""
LEAST_GROWTH = 64 * 2**20
"""Bytes that may always be kept on top of what the first batch left before memory is given back."""


def peak_bytes(device: torch.device) -> int:
    """Peak memory since `reset_peak`: of the process, or on CUDA of the device's allocations."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if held := _status("VmHWM"):
        return held
    # on Linux this would include what the process that started this one had taken
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak(device: torch.device) -> None:
    """Begin a new measurement of the peak; where the system cannot, the process's peak so far stays."""
    if device.type == "cuda":
        _BEFORE_RESET[device] = device_peak(device)
        torch.cuda.reset_peak_memory_stats(device)
        return
    _BEFORE_RESET[_PROCESS] = process_peak()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def process_peak() -> int:
    """Peak memory of the process in bytes since it began, whatever `reset_peak` did in between."""
    return device_peak(_PROCESS)


def device_peak(device: torch.device) -> int:
    """Peak since the process began, whatever `reset_peak` did: of a CUDA device's allocations, else the process's."""
    counted = device if device.type == "cuda" else _PROCESS
    return max(peak_bytes(counted), _BEFORE_RESET.get(counted, 0))


def memory_in_use(device: torch.device) -> int:
    """Bytes that the process holds now, or on CUDA the device's allocations."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return resident_bytes() or process_peak()


def resident_bytes() -> int:
    """Bytes of memory that the process holds, where Linux tells; 0 elsewhere."""
    return _status("VmRSS") or 0


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    line = next((line for line in lines if line.startswith(f"{name}:")), None)
    return None if line is None else int(line.split()[1]) * 1024


def give_back_freed_memory() -> None:
    """Return to the system what glibc keeps of freed tensors; elsewhere nothing.

    Batches of many shapes leave holes that the next shape does not fit into: the process would hold half as much again
    as any one batch needs.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class FreedMemory:
    """Gives freed memory back once the process holds as much again as its first batch added.

    Not after every batch: what the next one touches must then be mapped again, which took up to a tenth of a scan's
    time (``docs/benchmarks.md``). Where the system does not tell what a process holds, nothing is given back.
    """

    def __init__(self) -> None:
        self._rest: int | None = None
        self._growth = 0
        self._allowed: int | None = None

    def before_first(self) -> None:
        """To be called before the first batch; later calls do nothing."""
        if self._rest is None:
            give_back_freed_memory()
            self._rest = resident_bytes()

    def after_batch(self) -> None:
        assert self._rest is not None
        held = resident_bytes()
        if self._allowed is None:
            self._growth = max(held - self._rest, LEAST_GROWTH)
            self._allowed = held + self._growth
        elif held > self._allowed:
            give_back_freed_memory()
            # what is still held is in use, or between what is: no reason to try again after every batch
            self._allowed = max(self._allowed, resident_bytes() + self._growth)
