"""Where a model's parameters meet its activations: which layers are covered, how, and what is left out.

The catalogue is made by looking at the modules and by one probing forward pass on a few tokens, which shows the call
counts, the layers that share an input, the scale of embeddings and the formula of each normalisation layer. What the
probe does not confirm is an error naming the module: a wrong gradient is worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import Scope

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SiteKind = Literal["linear", "conv1d", "embedding", "rms_norm", "layer_norm"]


@dataclass(frozen=True, slots=True)
class Site:
    """One module whose parameters are in scope."""

    name: str
    """The module's dotted name."""
    module: nn.Module
    """The module."""
    kind: SiteKind
    """How its gradients are formed."""
    weight: str | None
    """Name of its weight parameter, None when only the bias is in scope."""
    bias: str | None
    """Name of its bias parameter, if it has one in scope."""
    factor: float = 1.0
    """Embedding: the scale its module applies after the lookup. Normalisation: its epsilon."""


@dataclass(frozen=True, slots=True)
class SiteGroup:
    """Linear sites fed by the same tensor, treated as one wider layer; or a single site of any kind."""

    sites: tuple[Site, ...]
    """The members, in order of call."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every place where parameters in scope meet activations."""

    causal: PreTrainedModel
    """The model with its output head, without an adapter's wrapper."""
    base: nn.Module
    """The part that yields the hidden states after the final norm."""
    head: nn.Linear
    """The output head, a linear layer."""
    input_embedding: nn.Embedding
    """The token embedding."""
    groups: tuple[SiteGroup, ...]
    """Sites other than the head."""
    head_weight: str | None
    """Name under which the head's weight is in scope, None when it is not."""
    head_bias: str | None
    """Name of the head's bias, if in scope."""
    tied: bool
    """Head and token embedding are one parameter (named by ``head_weight``)."""
    left_out: tuple[str, ...] = field(default=())
    """Parameters outside the scope."""
    positions_needed: bool = False
    """Position ids must be given per row, since a position table is in scope."""

    def device_of(self, name: str) -> torch.device:
        """Where a parameter is, and so what is multiplied with it."""
        device: torch.device = self.causal.get_parameter(name).device
        return device

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter in scope, as ``(out, in)`` for linear kinds whatever the module stores."""
        shapes: dict[str, tuple[int, ...]] = {}
        for group in self.groups:
            for site in group.sites:
                if site.weight is not None:
                    shapes[site.weight] = (
                        linear_shape(site.module) if is_linear(site) else _shape(site.module, "weight")
                    )
                if site.bias is not None:
                    shapes[site.bias] = _shape(site.module, "bias")
        if self.head_weight is not None:
            shapes[self.head_weight] = linear_shape(self.head)
        if self.head_bias is not None:
            shapes[self.head_bias] = _shape(self.head, "bias")
        return shapes


def is_linear(site: Site) -> bool:
    """Whether the site's weight is a matrix product's."""
    return site.kind in ("linear", "conv1d")


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """``(out, in)`` of a linear layer of either storage order, packed weights included."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    fan_in, fan_out = _shape(module, "weight")
    return fan_out, fan_in


def build_catalogue(model: Any, scope: Scope) -> Catalogue:
    """Catalogue the sites of a frozen chat model for a scope.

    Raises :class:`RipcurrentError` naming the module when a parameter in scope sits in a layer kind that is not
    covered, when a layer is called more than once per pass, or when the head's arithmetic is not understood.
    """
    if scope == "lora" and hasattr(model, "peft_config"):
        _refuse_trained_beside(model)
    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    base = getattr(causal, causal.base_model_prefix)
    head = causal.get_output_embeddings()
    embedding = causal.get_input_embeddings()
    if head is None or base is causal or not isinstance(head, nn.Linear):
        raise RipcurrentError(
            f"{type(causal).__name__} has no linear output head on a base model.",
            "Only decoder language models with a linear head can be scored.",
        )
    names = {id(parameter): name for name, parameter in causal.named_parameters()}
    tied = head.weight is embedding.weight
    probe = _Probe(causal, base)
    wanted, left_out = _parameters_in_scope(causal, scope, base)

    head_weight = names[id(head.weight)] if names[id(head.weight)] in wanted else None
    head_bias = None
    if head.bias is not None and names[id(head.bias)] in wanted:
        head_bias = names[id(head.bias)]
    covered = {name for name in (head_weight, head_bias) if name is not None}

    sites: list[Site] = []
    for name, module in causal.named_modules():
        if module is head:
            continue
        own = {key: names[id(value)] for key, value in module.named_parameters(recurse=False)}
        in_scope = {key: full for key, full in own.items() if full in wanted}
        if not in_scope:
            continue
        if module not in probe.entered:
            # the tower of a model that also sees images, of whatever layers: text never meets it
            left_out = (*left_out, *in_scope.values())
            covered.update(in_scope.values())
            continue
        twice = covered.intersection(in_scope.values()) - ({head_weight} if module is embedding else set())
        if twice:
            raise RipcurrentError(
                f"{name} shares its weight with another layer ({min(twice)}); its gradient is not a single product.",
                "Use another model.",
            )
        calls = len(probe.inputs.get(module, []))
        if calls > 1:
            raise RipcurrentError(
                f"{name} is used {calls} times in one pass; its gradient is not a single product.",
                "Use --scope linear or lora if that leaves it out, or another model.",
            )
        if _is_linear_module(module) and any(value.dim() != 3 for value in probe.inputs.get(module, [])):
            raise RipcurrentError(
                f"{name} is given the tokens of all rows in one list, as by mixture-of-experts layers.",
                "Rows cannot be told apart there; use another model.",
            )
        sites.append(_classify(name, module, in_scope, probe))
        covered.update(in_scope.values())
    missing = sorted(wanted - covered)
    if missing:
        raise RipcurrentError(
            f"These parameters belong to no layer that is covered: {', '.join(missing[:5])}.",
            "Use another model, or --scope linear, which is over linear layers alone.",
        )
    if not any(is_linear(site) for site in sites):
        raise RipcurrentError(
            f"No linear layer of {type(causal).__name__} holds a weight that can be read.",
            "Use the model's own weights, not packed ones.",
        )

    groups = _group(sites, probe)
    tables = [site for site in sites if site.kind == "embedding"]
    return Catalogue(
        causal=causal,
        base=base,
        head=head,
        input_embedding=embedding,
        groups=groups,
        head_weight=head_weight,
        head_bias=head_bias,
        tied=tied and head_weight is not None,
        left_out=left_out,
        positions_needed=len(tables) > 1,
    )


def _parameters_in_scope(causal: Any, scope: Scope, base: nn.Module) -> tuple[set[str], tuple[str, ...]]:
    everything = [name for name, _ in causal.named_parameters()]
    if scope == "all":
        wanted = set(everything)
    elif scope == "lora":
        wanted = {name for name in everything if ".lora_A." in name or ".lora_B." in name}
        if not wanted:
            raise RipcurrentError("Scope lora was asked for, but the model has no LoRA layers.", "Pass --adapter.")
    else:
        inside = {id(module) for module in base.modules()}
        wanted = set()
        for name, module in causal.named_modules():
            if id(module) in inside and _is_linear_module(module):
                wanted.update(f"{name}.{key}" for key, _ in module.named_parameters(recurse=False))
    return wanted, tuple(name for name in everything if name not in wanted)


def _refuse_trained_beside(model: Any) -> None:
    """Refuse an adapter that trains more than the A and B of linear layers inside the model."""
    (config,) = model.peft_config.values()
    causal = model.get_base_model()
    beside = [
        what
        for what, there in (
            ("whole layers (modules_to_save)", config.modules_to_save),
            ("single tokens (trainable_token_indices)", config.trainable_token_indices),
            ("biases", config.bias != "none" or config.lora_bias),
            ("the embedding", any(".lora_embedding_" in name for name, _ in causal.named_parameters())),
            ("the head", hasattr(causal.get_output_embeddings(), "base_layer")),
        )
        if there
    ]
    if beside:
        raise RipcurrentError(
            f"The adapter trains {beside[0]} beside linear layers' A and B, which are all that scope lora covers.",
            "Merge it: --scope all or linear.",
        )


def _is_linear_module(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _classify(name: str, module: nn.Module, in_scope: dict[str, str], probe: _Probe) -> Site:
    if any(not getattr(module, key).is_floating_point() for key in in_scope):
        raise RipcurrentError(
            f"The layer {name} ({type(module).__name__}) holds its weight packed in a few bits, which is not trained.",
            "Use --scope lora, which is how such models are fine-tuned, or load the model unquantised.",
        )
    weight, bias = in_scope.get("weight"), in_scope.get("bias")
    strange = set(in_scope) - {"weight", "bias"}
    kind: SiteKind | None = None
    factor = 1.0
    if strange or module not in probe.inputs:
        pass
    elif _is_linear_module(module):
        if probe.is_product(module):
            kind = "linear" if isinstance(module, nn.Linear) else "conv1d"
    elif isinstance(module, nn.Embedding):
        found = probe.embedding_scale(module)
        kind, factor = ("embedding", found) if found is not None else (None, 1.0)
    elif (norm := probe.normalisation(module)) is not None:
        kind, factor = norm
    if kind is None and not all(torch.isfinite(getattr(module, key)).all() for key in in_scope):
        raise RipcurrentError(
            f"The layer {name} has weights that are not finite.",
            "A training that diverged leaves such; use a model from before it.",
        )
    if kind is None:
        raise RipcurrentError(
            f"The layer {name} ({type(module).__name__}) is of a kind whose gradient is not covered.",
            "Use --scope linear or --scope lora, which leave such layers out and say so.",
        )
    return Site(name, module, kind, weight, bias, factor)


def _group(sites: list[Site], probe: _Probe) -> tuple[SiteGroup, ...]:
    """Linear sites that were fed the very same tensor form one group; every other site is its own."""
    by_input: dict[int, list[Site]] = {}
    groups: list[list[Site]] = []
    for site in sites:
        if not is_linear(site):
            groups.append([site])
            continue
        key = id(probe.inputs[site.module][0])
        if key not in by_input:
            by_input[key] = []
            groups.append(by_input[key])
        by_input[key].append(site)
    return tuple(SiteGroup(tuple(group)) for group in groups)


class _Probe:
    """One forward pass on a few tokens, with every leaf module's inputs and outputs kept."""

    def __init__(self, causal: Any, base: nn.Module) -> None:
        self.inputs: dict[nn.Module, list[Tensor]] = {}
        self.outputs: dict[nn.Module, Tensor] = {}
        self.entered: set[nn.Module] = set()
        device = causal.get_input_embeddings().weight.device
        vocabulary = causal.get_input_embeddings().weight.shape[0]
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, vocabulary, (2, 6), generator=generator).to(device)

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
        return _clean(scale) if _close(output, raw * scale, module.weight.dtype) else None

    def normalisation(self, module: Any) -> tuple[SiteKind, float] | None:
        """Which normalisation a module is, with its epsilon; None when neither formula fits.

        An RMSNorm applies its weight as ``w`` or ``1 + w`` and has no bias; a LayerNorm takes the mean off. In a coarse
        type both may fit wide states whose mean is near 0: the nearer one is it.
        """
        found = self._normalisation(module)
        if found is None:
            return None
        x, weight, output, epsilon = found
        bias = getattr(module, "bias", None)
        centred = nn.functional.layer_norm(x, x.shape[-1:], eps=epsilon) * weight
        expected: list[tuple[SiteKind, Tensor]] = [("layer_norm", centred if bias is None else centred + bias.float())]
        if bias is None:
            scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
            expected += [("rms_norm", scaled * weight), ("rms_norm", scaled * (1 + weight))]
        kind, nearest = min(expected, key=lambda one: float((output - one[1]).norm()))
        return (kind, epsilon) if _close(output, nearest, module.weight.dtype) else None

    def _normalisation(self, module: nn.Module) -> tuple[Tensor, Tensor, Tensor, float] | None:
        """Input, weight, output and epsilon of what may be a normalisation over the last axis, in float32."""
        weight = getattr(module, "weight", None)
        epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if not isinstance(weight, Tensor) or not isinstance(epsilon, float):
            return None
        x = self.inputs[module][0].to(weight.device).float()
        if x.shape[-1:] != weight.shape:
            return None
        return x, weight.float(), self.outputs[module].to(weight.device).float(), epsilon


def _close(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    return bool((one - other).norm() <= tolerance * other.norm() + 1e-12)


def _clean(scale: float) -> float:
    return 1.0 if abs(scale - 1.0) < 1e-3 else scale


def _shape(module: nn.Module, name: str) -> tuple[int, ...]:
    return tuple(getattr(module, name).shape)
