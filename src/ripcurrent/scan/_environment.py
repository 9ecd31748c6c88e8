"""What this machine and installation offer a scan, and what to do about what they lack."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import cache_folder, choose_device, choose_dtype, embedded_gguf, guard_adapter

ENOUGH_MEMORY = 3 * 2**30
"""Bytes that a scan with the embedded model may take."""

ENOUGH_DISK = 2 * 2**30
"""Bytes that the embedded model's copy and its directions take in the cache, with room for a run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What."""
    value: str
    """What it is."""
    advice: str | None = None
    """What to do about it; None when nothing has to be done."""

    @property
    def ok(self) -> bool:
        """True without advice."""
        return self.advice is None


def environment(device_name: str | None, dtype_name: str | None) -> list[Finding]:
    """Look at versions, device, compute type, CPU, memory, cache and the embedded model.

    Raises:
        RipcurrentError: A device or compute type, as the user asks for, that this machine does not have.
    """
    device = choose_device(device_name)
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    why = "the fastest here" if device.type != "cpu" else "as there is no GPU that this torch can use"
    free = free_memory(device)
    few = f"A scan with the embedded model may take {size(ENOUGH_MEMORY)}: close what you can."
    return [
        Finding("ripcurrent", version("ripcurrent")),
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(Finding(name, version(name)) for name in ("torch", "transformers")),
        Finding("device", f"{label}, {why if device_name is None else 'as asked for'}"),
        _dtype(device, dtype_name),
        *([_cpu()] if device.type == "cpu" else []),
        Finding("memory", "the system does not say how much is free")
        if free is None
        else Finding("memory", f"{size(free)} free", few if free < ENOUGH_MEMORY else None),
        _cache(cache_folder()),
        _embedded("embedded model", embedded_gguf),
        _embedded("guard adapter", guard_adapter),
    ]


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process can still take on a device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines}
    available = int(sizes["MemAvailable"]) * 1024
    within = _container_memory()
    return available if within is None else min(available, within)


def size(count: float) -> str:
    """Bytes with a unit, in powers of a thousand."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _dtype(device: torch.device, named: str | None) -> Finding:
    dtype, native = choose_dtype(named, device), choose_dtype(None, device)
    label = str(dtype).removeprefix("torch.")
    if named is None:
        why = "which this device computes in natively" if native == torch.bfloat16 else "as bfloat16 is not native here"
        return Finding("compute type", f"{label}, {why}")
    advice = None
    if dtype != native == torch.bfloat16 and dtype == torch.float32:
        advice = "Leave --dtype out unless you need float32: bfloat16 is several times faster on this device."
    elif dtype not in (native, torch.float32):
        advice = f"Leave --dtype out: this device does not compute in {label} natively, which is slow."
    return Finding("compute type", f"{label}, as asked for", advice)


def _cpu() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    # Hyper-threads count as cores, and torch rightly leaves one of each pair alone.
    few = threads * 2 < cores or (threads == 1 and cores > 1)
    advice = "Unset OMP_NUM_THREADS, or raise it, to use the other cores." if few else None
    return Finding("CPU", f"{threads} threads on {cores} cores", advice)


def _cache(folder: Path) -> Finding:
    used = sum(map(_bytes_of, folder.rglob("*")))
    there = next(path for path in (folder, *folder.parents) if path.exists())
    other = "Name another folder in the environment variable RIPCURRENT_CACHE."
    value = f"{folder}, {size(used)}"
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding("cache", f"{value}, cannot be written", other)
    free = shutil.disk_usage(there).free
    advice = f"Free some space there. {other}" if free < ENOUGH_DISK else None
    return Finding("cache", f"{value}; {size(free)} free on its disk", advice)


def _bytes_of(path: Path) -> int:
    """A file's size; 0 of a folder, and of a file that a scan beside this removes."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _embedded(name: str, find: Callable[[], Path]) -> Finding:
    try:
        path = find()
    except RipcurrentError as error:
        return Finding(name, error.message.rstrip("."), error.hint)
    return Finding(name, path.name if path.is_file() else "installed")


def _container_memory(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's own limit (cgroup 2) leaves; None without one."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        facts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return None
    # the cache of files that were read is counted as used, and given up when it is needed
    return None if limit == "max" else max(0, int(limit) - used + int(facts.get("inactive_file", 0)))
