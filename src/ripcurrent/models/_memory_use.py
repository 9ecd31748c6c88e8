"""What the process and its devices hold, and the most that they have held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

_HIGHEST: list[int] = []
"""The process's peak before the last reset, which the system forgets; one entry at most."""
_HIGHEST_ON: dict[torch.device, int] = {}
"""The same of each CUDA device."""


def peak_bytes(device: torch.device) -> int:
    """Peak memory since `reset_peak`: of the process, or on CUDA of the device's allocations."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    held = _status("VmHWM")
    return process_peak() if held is None else held


def reset_peak(device: torch.device) -> None:
    """Begin a new measurement of the peak; where the system cannot, the process's peak so far stays."""
    if device.type == "cuda":
        _HIGHEST_ON[device] = device_peak(device)
        torch.cuda.reset_peak_memory_stats(device)
        return
    _HIGHEST[:] = [process_peak()]
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def process_peak() -> int:
    """Peak memory of the process in bytes since it began, whatever `reset_peak` did in between.

    Where the system has no VmHWM it is the kernel's count, which on Linux would include what the process that started
    this one had taken.
    """
    held = _status("VmHWM")
    if held is None:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max([held, *_HIGHEST])


def device_peak(device: torch.device) -> int:
    """Peak since the process began, whatever `reset_peak` did: of a CUDA device's allocations, else the process's."""
    if device.type != "cuda":
        return process_peak()
    return max(peak_bytes(device), _HIGHEST_ON.get(device, 0))


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
    found = next((line for line in lines if line.startswith(f"{name}:")), None)
    return None if found is None else int(found.split()[1]) * 1024
