"""A pretend device: tensors that compute on the processor and say that they are elsewhere; mixing the two is an error.

Importing this gives torch's spare backend a name and changes torch for good, so it is for a process of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

COPIES = ("aten::copy_", "aten::_copy_from")
"""What may have tensors of two devices."""
LOOKUPS = ("aten::index", "aten::_index_put", "aten::_unsafe_index")
"""What may, as on CUDA, have indices on the processor."""


class _Backend(_DummyBackendModule):
    def device_count(self) -> int:
        return 1

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class Placed(Tensor):
    """A tensor that says it is on the pretend device, around one of the processor's."""

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device | None = None, requires_grad: bool = False) -> Placed:
        if isinstance(held, Placed):
            held, device = held.held, held.device
        return Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=device, requires_grad=False,
        )  # fmt: skip

    def __init__(self, held: Tensor, device: torch.device | None = None, requires_grad: bool = False) -> None:
        self.held = held.held if isinstance(held, Placed) else held

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the processor; its result is where its tensors are, which must be one device."""
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    if composite and func is not torch.ops.aten.detach.default:
        decomposed = func.decompose(*args, **kwargs)
        if decomposed is not NotImplemented:
            return decomposed
    target = _target(func._schema.name, args, kwargs)
    seen: dict[int, Placed] = {}

    def off(value: Any) -> Any:
        if isinstance(value, Placed):
            seen[id(value.held)] = value
            return value.held
        is_pretend = isinstance(value, torch.device) and value.type == PRETEND.type
        return torch.device("cpu") if is_pretend else value

    def on(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, Placed):
            return value
        if id(value) in seen:
            return seen[id(value)]
        return value if target is None or target.type == "cpu" else Placed(value, target)

    args, kwargs = tree_map(off, (args, kwargs))
    with _disable_current_modes():
        found = func(*args, **kwargs)
    return tree_map(on, found)


def _target(name: str, args: Any, kwargs: dict[str, Any]) -> torch.device | None:
    """Where an operation's result is; None where each tensor stays. Two devices are an error, as on CUDA."""
    if name in COPIES:
        return None
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    places = {tensor.device for tensor in tensors if tensor.dim() > 0 or tensor.device.type != "cpu"}
    if name.startswith(LOOKUPS):
        places = {args[0].device} | {tensor.device for tensor in tensors if tensor.device.type != "cpu"}
    if len(places) > 1:
        raise RuntimeError(f"{name}: tensors on {sorted(map(str, places))}")
    wanted = kwargs.get("device")
    if name == "aten::_to_copy" and wanted is None:
        wanted = args[0].device
    target = torch.device(wanted) if wanted is not None else next(iter(places), torch.device("cpu"))
    return PRETEND if target.type == PRETEND.type else target


def _tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    made = _PLAIN_TENSOR(data, *args, **kwargs)
    return made if device is None else made.to(device)


_setup_privateuseone_for_python_backend("pretend", backend_module=_Backend())
PRETEND = torch.device("pretend:0")
_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(lambda func, *args, **kwargs: compute(func, args, kwargs), dispatch_key="PrivateUse1")
_PLAIN_TENSOR = torch.tensor
torch.tensor = _tensor
# its tensors keep no version, which wrappers need
torch.inference_mode = torch.no_grad
