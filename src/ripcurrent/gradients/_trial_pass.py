"""One forward pass on a few tokens: shows what each layer is given, and confirms the formula of each layer kind."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ripcurrent.errors import RipcurrentError

NormKind = Literal["rms_norm", "layer_norm"]


class TrialPass:
    """Every module's inputs and outputs in one pass."""

    def __init__(self, causal: Any, base: nn.Module) -> None:
        """Run it.

        Raises:
            RipcurrentError: a token sees the tokens after it.
        """
        self.inputs: dict[nn.Module, list[Tensor]] = {}
        self.outputs: dict[nn.Module, Tensor] = {}
        self.entered: set[nn.Module] = set()
        device = causal.get_input_embeddings().weight.device
        vocabulary = causal.get_input_embeddings().weight.shape[0]
        ids = torch.randint(0, vocabulary, (2, 6), generator=torch.Generator().manual_seed(0)).to(device)

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            value = args[0] if args else next(iter(kwargs.values()), None)
            if isinstance(value, Tensor) and isinstance(output, Tensor):
                self.inputs.setdefault(module, []).append(value)
                self.outputs[module] = output

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.entered.add(module)

        handles = [module.register_forward_hook(keep, with_kwargs=True) for module in causal.modules()]
        handles += [module.register_forward_pre_hook(enter) for module in causal.modules()]
        try:
            with torch.no_grad():
                states = base(input_ids=ids, use_cache=False)[0]
        finally:
            for handle in handles:
                handle.remove()
        ids = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % vocabulary], dim=1)
        with torch.no_grad():
            others = base(input_ids=ids, use_cache=False)[0]
        before, again = states[:, :-1].float(), others[:, :-1].float()
        if (again - before).norm() > 1e-3 * before.norm():  # of one shape, so rounded alike
            raise RipcurrentError(
                f"The tokens of {type(causal).__name__} see the tokens after them.", "Use a decoder-only model."
            )

    def is_product(self, module: Any) -> bool:
        """Whether a linear layer's output is its input times its weight, plus its bias, and nothing else."""
        x, output = self.inputs[module][0], self.outputs[module].float()
        weight, bias = module.weight, getattr(module, "bias", None)
        matrix = (weight if isinstance(module, nn.Linear) else weight.mT).float()
        if x.shape[-1:] != matrix.shape[1:]:
            return False
        offset = None if bias is None else bias.float()
        expected = nn.functional.linear(x.to(weight.device).float(), matrix, offset)
        coarser: torch.dtype = min(weight.dtype, x.dtype, key=lambda kind: kind.itemsize)
        return _close(output.to(weight.device), expected, coarser)

    def embedding_scale(self, module: nn.Embedding) -> float | None:
        """The constant by which the module's output exceeds its raw lookup; None when there is no such constant."""
        ids, output = self.inputs[module][0].to(module.weight.device), self.outputs[module].float()
        if ids.is_floating_point() or ids.numel() * module.weight.shape[1] != output.numel():
            return None
        raw = module.weight[ids].float()
        scale = float((output * raw).sum() / raw.square().sum().clamp_min(1e-30))
        if not _close(output, raw * scale, module.weight.dtype):
            return None
        return 1.0 if abs(scale - 1.0) < 1e-3 else scale

    def norm(self, module: Any) -> tuple[NormKind, float] | None:
        """Which normalisation over the last axis the module is, and its epsilon; None when no formula fits.

        An RMSNorm applies its weight as ``w`` or ``1 + w`` and has no bias. In a coarse type both may fit wide states
        whose mean is near 0: the nearer one is it.
        """
        epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if not isinstance(epsilon, float) or self.inputs[module][0].shape[-1:] != module.weight.shape:
            return None
        device = module.weight.device
        x, output = self.inputs[module][0].to(device).float(), self.outputs[module].to(device).float()
        weight, bias = module.weight.float(), getattr(module, "bias", None)
        centred = nn.functional.layer_norm(x, x.shape[-1:], eps=epsilon) * weight
        expected: list[tuple[NormKind, Tensor]] = [("layer_norm", centred if bias is None else centred + bias.float())]
        if bias is None:
            scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
            expected += [("rms_norm", scaled * weight), ("rms_norm", scaled * (1 + weight))]
        kind, nearest = min(expected, key=lambda one: float((output - one[1]).norm()))
        return (kind, epsilon) if _close(output, nearest, module.weight.dtype) else None


def _close(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    return bool((one - other).norm() <= tolerance * other.norm() + 1e-12)
