"""Where to compute and in which type, and the memory that the process and its devices hold."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import torch

from ripcurrent.errors import RipcurrentError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROCESS = torch.device("cpu")
_BEFORE_RESET: dict[torch.device, int] = {}
"""The peaks before the last reset, which the system forgets: of the process, and of each CUDA device."""
LEAST_GROWTH = 64 * 2**20
"""Bytes that may always be kept on top of what the first batch left before memory is given back."""
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed", "bad_alloc")
"""Parts of what libraries say, in lower case, when memory runs out and they raise a plain RuntimeError."""


def choose_device(name: str | None) -> torch.device:
    """The named device (``cpu``, ``cuda``, ``cuda:1``, ``mps``), or for None the best one: cuda, mps, cpu."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [kind for kind, there in here.items() if there]
    if name is None:
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    count = torch.cuda.device_count() if device is not None and device.type == "cuda" else 1
    if device is None or device.type not in available or (device.index or 0) >= count:
        raise RipcurrentError(f"There is no device {name!r} here.", f"Devices on this machine: {', '.join(available)}.")
    return device


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The named compute type, or for None bfloat16 where ``device`` computes in it natively, else float32."""
    if name is None:
        return torch.bfloat16 if _has_native_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise RipcurrentError(f"There is no compute type {name!r}.", f"Types: {', '.join(DTYPES)}.")
    return DTYPES[name]


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    # torch.ops.mkldnn._is_mkldnn_bf16_supported() is also true of CPUs that only emulate bfloat16, and slowly.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def sum_in_float32() -> None:
    """Let no product on a GPU add up partial sums in 16 bits: dots and norms are sums over millions of entries."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or of the process."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in _NO_MEMORY)


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
    return _status("VmRSS")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def give_back_freed_memory() -> None:
    """Return to the system what glibc keeps of freed tensors, in holes that no next batch fits into."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class FreedMemory:
    """Gives freed memory back once the process holds as much again as its first batch added: each time costs."""

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
        held = resident_bytes()
        if self._allowed is None:
            self._growth = max(held - (self._rest or 0), LEAST_GROWTH)
            self._allowed = held + self._growth
        elif held > self._allowed:
            give_back_freed_memory()
            # what is still held is in use, or between what is: no reason to try again after every batch
            self._allowed = max(self._allowed, resident_bytes() + self._growth)
