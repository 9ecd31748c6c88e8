"""What this machine and installation offer a scan, and what to do about what they lack."""

import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import computed_field
from pydantic.dataclasses import dataclass

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import cache_folder, choose_device, choose_dtype, embedded_gguf

ENOUGH_MEMORY = 3 * 2**30
"""Bytes that a scan with the embedded model may take."""
ENOUGH_DISK = 2 * 2**30
"""Bytes that the embedded model's copy and its directions take in the cache, with room for a run."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What."""
    value: str
    """What it is."""
    advice: str | None = None
    """What to do about it; None when nothing has to be done."""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
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
    return [
        Finding("ripcurrent", version("ripcurrent")),
        Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(Finding(name, version(name)) for name in ("torch", "transformers")),
        Finding("device", f"{label}, {why if device_name is None else 'as asked for'}"),
        _dtype(device, dtype_name),
        *([_cpu()] if device.type == "cpu" else []),
        _memory(device),
        _cache(cache_folder()),
        _embedded(),
    ]


def size(count: float) -> str:
    """Bytes with a unit, in powers of a thousand."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _dtype(device: torch.device, named: str | None) -> Finding:
    dtype, fastest = (str(choose_dtype(one, device)).removeprefix("torch.") for one in (named, None))
    if named is None:
        native = "which this device computes in natively" if dtype == "bfloat16" else "as bfloat16 is not native here"
        return Finding("compute type", f"{dtype}, {native}")
    advice = f"Leave --dtype out unless you need {dtype}: this device is fastest in {fastest}."
    return Finding("compute type", f"{dtype}, as asked for", None if dtype == fastest else advice)


def _cpu() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    # Hyper-threads count as cores, and torch rightly leaves one of each pair alone.
    few = threads * 2 < cores or (threads == 1 and cores > 1)
    advice = "Unset OMP_NUM_THREADS, or raise it, to use the other cores." if few else None
    return Finding("CPU", f"{threads} threads on {cores} cores", advice)


def _memory(device: torch.device) -> Finding:
    free = _free_memory(device)
    if free is None:
        return Finding("memory", "the system does not say how much is free")
    few = f"A scan with the embedded model may take {size(ENOUGH_MEMORY)}: close what you can."
    return Finding("memory", f"{size(free)} free", few if free < ENOUGH_MEMORY else None)


def _free_memory(device: torch.device, container: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that a process can still take on a device, within a container's own limit (cgroup 2); None: not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        free = _numbers(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    except OSError:
        return None
    try:
        limit = int((container / "memory.max").read_text(encoding="ascii"))
        used = int((container / "memory.current").read_text(encoding="ascii"))
        # the cache of files that were read is counted as used, and given up when it is needed
        return min(free, max(0, limit - used + _numbers(container / "memory.stat").get("inactive_file", 0)))
    except (OSError, ValueError):
        # no such file, or a limit of "max"
        return free


def _numbers(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {name: int(number) for name, number, *_ in lines}


def _cache(folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    other = "Name another folder in the environment variable RIPCURRENT_CACHE."
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding("cache", f"{folder} cannot be written", other)
    free = shutil.disk_usage(there).free
    advice = f"Free some space there. {other}" if free < ENOUGH_DISK else None
    return Finding("cache", f"{folder}; {size(free)} free on its disk", advice)


def _embedded() -> Finding:
    try:
        return Finding("embedded model", embedded_gguf().name)
    except RipcurrentError as error:
        return Finding("embedded model", error.message.rstrip("."), error.hint)
