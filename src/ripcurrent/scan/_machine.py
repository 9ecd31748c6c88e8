"""The machine and the installation as a scan needs them, and what a scan takes by the model's configuration alone."""

import os
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import torch

from ripcurrent.anchors import load_anchors
from ripcurrent.errors import RipcurrentError
from ripcurrent.files import cache_folder
from ripcurrent.models import choose_device, choose_dtype, embedded_gguf, empty_model
from ripcurrent.scan._doctor import Estimate, Finding
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._scan_model import size

SHARE_OF_PRODUCTS, READ_BYTES, BESIDE_BYTES, ANCHOR_TOKENS = 0.4, 5e8, 10**9, 60
"""What a scan reaches of the rate of large products; bytes of weights read a second; memory of everything else; tokens
of an anchor."""
ENOUGH_MEMORY, ENOUGH_DISK = 3 * 2**30, 2 * 2**30
"""Bytes of memory that a scan with the embedded model may take, and of disk with a run beside."""


def predicted(options: ScanOptions, tokens: float) -> Estimate:
    """What a scan of so many tokens takes, from the model's configuration and one product of matrices timed here."""
    model, device = empty_model(options.model), choose_device(options.device)
    dtype, parameters = choose_dtype(options.dtype, device), sum(one.numel() for one in model.parameters())
    of_anchors = ANCHOR_TOKENS * len(load_anchors(options.anchors).anchors)
    rate = SHARE_OF_PRODUCTS * matrix_rate(device, dtype) / parameters
    passes = (2 if options.wants_representation and not options.wants_gradient else 8, 2 + 8 * options.wants_gradient)
    loading, anchor = parameters * dtype.itemsize / READ_BYTES, of_anchors * passes[1] / rate
    row = tokens * passes[0] / rate
    # the weights, and with gradients two directions and the one that is formed, in float32
    held = parameters * (dtype.itemsize + (2 * dtype.itemsize + 4) * options.wants_gradient)
    return Estimate(
        signals=options.signals,
        seconds=loading + anchor + row,
        loading_seconds=loading,
        anchor_seconds=anchor,
        row_seconds=row,
        tokens_per_second=rate / passes[0],
        peak_memory_bytes=held + BESIDE_BYTES,
        parameters=parameters,
    )


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in a product of two square matrices."""
    side = 1024 if device.type == "cpu" else 4096
    one, times = torch.ones(side, side, device=device, dtype=dtype), []
    for _ in range(5):
        began = time.perf_counter()
        float((one @ one)[0, 0])
        times.append(time.perf_counter() - began)
    # the first is slow, and so is any while other work runs
    return 2 * side**3 / min(times)


def environment(device_name: str | None, dtype_name: str | None) -> list[Finding]:
    """Look at versions, device, compute type, CPU, memory, cache and the embedded model."""
    found: list[Finding] = []

    def note(name: str, value: str, advice: str = "", wrong: bool = False) -> None:
        found.append(Finding(name=name, value=value, advice=advice if wrong else None, ok=not wrong))

    note("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for library in ("ripcurrent", "torch", "transformers"):
        note(library, version(library))
    device = choose_device(device_name)
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    why = "the fastest here" if device.type != "cpu" else "as there is no GPU that this torch can use"
    note("device", f"{label}, {'as asked for' if device_name else why}")
    dtype, fastest = (str(choose_dtype(one, device)).removeprefix("torch.") for one in (dtype_name, None))
    why = "which this device computes in natively" if dtype == "bfloat16" else "as bfloat16 is not native here"
    advice = f"Leave --dtype out unless you need {dtype}: this device is fastest in {fastest}."
    note("compute type", f"{dtype}, {'as asked for' if dtype_name else why}", advice, dtype != fastest)
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = torch.get_num_threads()
        # hyper-threads count as cores, and torch rightly leaves one of each pair alone
        few = threads * 2 < cores or (threads == 1 and cores > 1)
        advice = "Unset OMP_NUM_THREADS, or raise it, to use the other cores."
        note("CPU", f"{threads} threads on {cores} cores", advice, few)
    free = free_memory(device)
    value = "the system does not say how much is free" if free is None else f"{size(free)} free"
    advice = f"A scan with the embedded model may take {size(ENOUGH_MEMORY)}: close what you can."
    note("memory", value, advice, free is not None and free < ENOUGH_MEMORY)
    folder = cache_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    room, writable = shutil.disk_usage(there).free, there.is_dir() and os.access(there, os.W_OK)
    value = f"{folder}; {size(room)} free on its disk" if writable else f"{folder} cannot be written"
    advice = f"Name a folder with {size(ENOUGH_DISK)} free in the environment variable RIPCURRENT_CACHE."
    note("cache", value, advice, not writable or room < ENOUGH_DISK)
    try:
        note("embedded model", embedded_gguf().name)
    except RipcurrentError as error:
        note("embedded model", error.message.rstrip("."), error.hint, True)
    return found


def free_memory(device: torch.device, container: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that a process can still take on a device, within a container's own limit (cgroup 2); None: not known."""

    def numbers(path: Path) -> dict[str, int]:
        lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
        return {name: int(number) for name, number, *_ in lines}

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        free = numbers(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    except OSError:
        return None
    try:
        limit, used = (int((container / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        # the cache of files that were read is counted as used, and given up when it is needed
        return min(free, max(0, limit - used + numbers(container / "memory.stat").get("inactive_file", 0)))
    except (OSError, ValueError):
        # no such file, or a limit of "max"
        return free
