"""Where to compute and in which type."""

import os

import torch

from ripcurrent.errors import RipcurrentError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

AUTO_DEVICE = "auto"
"""As a device: a model's layers on all GPUs of this machine, whole layers on each."""

WEIGHTS_SHARE = 0.9
"""Share of each GPU's free memory that the weights of a model spread over them may take."""

WEIGHTS_SHARE_WITH_DIRECTIONS = 0.5
"""The same where directions come on top. Two take half of what the weights do at 8B, less where layers are wider."""


def choose_device(name: str | None) -> torch.device:
    """The named device (``cpu``, ``cuda``, ``cuda:1``, ``mps``), or for None or ``auto`` the best: cuda, mps, cpu."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [kind for kind, there in here.items() if there]
    if name is None or name == AUTO_DEVICE:
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    count = torch.cuda.device_count() if device is not None and device.type == "cuda" else 1
    if device is None or device.type not in available or (device.index or 0) >= count:
        raise RipcurrentError(f"There is no device {name!r} here.", f"Devices on this machine: {', '.join(available)}.")
    return device


def room_on_gpus(name: str | None, share: float) -> dict[int, int] | None:
    """Bytes of weights that each GPU may take, by number, where ``auto`` finds several; else None: one device."""
    if name != AUTO_DEVICE or not torch.cuda.is_available() or torch.cuda.device_count() < 2:
        return None
    return {number: int(share * torch.cuda.mem_get_info(number)[0]) for number in range(torch.cuda.device_count())}


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


def bound_kernel_cache() -> None:
    """Keep the CPU's compiled kernels to those of a few batch shapes, unless the environment says otherwise.

    oneDNN keeps a thousand, each with its buffers: memory would grow with the number of batch shapes. It reads this at
    the first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def sum_in_float32() -> None:
    """Let no product on a GPU add up partial sums in 16 bits: dots and norms are sums over millions of entries."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
