"""Which layers hold a model's parameters, of what kind they are, and what is left out of the scope.

A pass over a few tokens shows how often a layer is called, which layers share an input, and whether each layer's
formula is the known one. What it does not confirm is an error naming the module: a wrong gradient is worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ripcurrent.errors import RipcurrentError
from ripcurrent.models import Scope

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NormKind = Literal["rms_norm", "layer_norm"]


@dataclass(frozen=True, slots=True)
class TrackedLayer:
    """One module whose parameters are in scope."""

    name: str
    module: nn.Module
    kind: Literal["linear", "embedding", "rms_norm", "layer_norm"]
    weight: str
    bias: str | None
    scale: float = 1.0
    """Embeddings: what the module multiplies the looked-up entry with."""
    epsilon: float = 0.0
    """Normalisations: what is added to the variance."""


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Linear layers fed by the same tensor, treated as one wider layer; or a single layer of any kind."""

    layers: tuple[TrackedLayer, ...]

    @property
    def linear(self) -> bool:
        return self.layers[0].kind == "linear"

    def shape(self) -> tuple[int, int]:
        """``(out, in)`` of the joined weight of linear layers."""
        shapes = [linear_shape(layer.module) for layer in self.layers]
        return sum(out for out, _ in shapes), shapes[0][1]


@dataclass(frozen=True, slots=True)
class ModelLayers:
    """Every layer that holds parameters in scope."""

    causal: PreTrainedModel
    """The model with its output head, without an adapter's wrapper."""
    base: nn.Module
    """The part that yields the hidden states after the final norm."""
    head: nn.Linear
    input_embedding: nn.Embedding
    groups: tuple[LayerGroup, ...]
    """The layers other than the head."""
    head_weight: str | None
    """Name under which the head's weight is in scope, None when it is not."""
    head_bias: str | None
    tied: bool
    """Head and token embedding are one parameter in scope (named by ``head_weight``)."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Parameters outside the scope, and those that text never meets."""
        scored = self.parameter_shapes()
        return tuple(name for name, _ in self.causal.named_parameters() if name not in scored)

    def tables(self) -> list[TrackedLayer]:
        return [layer for group in self.groups for layer in group.layers if layer.kind == "embedding"]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter in scope, as ``(out, in)`` for linear layers whatever the module stores."""
        shapes: dict[str, tuple[int, ...]] = {}
        for group in self.groups:
            for layer in group.layers:
                linear = layer.kind == "linear"
                shapes[layer.weight] = linear_shape(layer.module) if linear else _shape(layer.module, "weight")
                if layer.bias is not None:
                    shapes[layer.bias] = _shape(layer.module, "bias")
        if self.head_weight is not None:
            shapes[self.head_weight] = linear_shape(self.head)
        if self.head_bias is not None:
            shapes[self.head_bias] = _shape(self.head, "bias")
        return shapes


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """``(out, in)`` of a linear layer of either storage order, packed weights included."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    fan_in, fan_out = _shape(module, "weight")
    return fan_out, fan_in


def _shape(module: nn.Module, name: str) -> tuple[int, ...]:
    return tuple(getattr(module, name).shape)


def find_layers(model: Any, scope: Scope) -> ModelLayers:
    """The layers of a frozen chat model that hold the parameters of a scope; what none covers is an error by name."""
    if scope == "lora" and hasattr(model, "get_base_model"):
        _refuse_trained_beside(model)
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    base = getattr(causal, causal.base_model_prefix)
    head = causal.get_output_embeddings()
    if head is None or base is causal or not isinstance(head, nn.Linear):
        raise RipcurrentError(
            f"{type(causal).__name__} has no linear output head on a base model.",
            "Only decoder language models with a linear head can be scored.",
        )
    names = {id(parameter): name for name, parameter in causal.named_parameters()}
    trial = TrialPass(causal, base)
    wanted = _parameters_in_scope(causal, scope, base)
    own = {key: names[id(value)] for key, value in head.named_parameters(recurse=False)}
    head_weight, head_bias = (own[key] if own.get(key) in wanted else None for key in ("weight", "bias"))
    covered = {name for name in (head_weight, head_bias) if name is not None}
    embedding = causal.get_input_embeddings()

    layers: list[TrackedLayer] = []
    for name, module in causal.named_modules():
        own = {key: names[id(value)] for key, value in module.named_parameters(recurse=False)}
        in_scope = {key: full for key, full in own.items() if full in wanted}
        if module is head or not in_scope:
            continue
        if module in trial.entered:
            shared = covered.intersection(in_scope.values()) - ({head_weight} if module is embedding else set())
            _refuse_coupled(name, module, shared, trial)
            layers.append(_track(name, module, in_scope, trial))
        # else it is of the tower of a model that also sees images, of whatever layers: text never meets it
        covered.update(in_scope.values())
    missing = sorted(wanted - covered)
    if missing:
        raise RipcurrentError(
            f"These parameters belong to no layer that is covered: {', '.join(missing[:5])}.",
            "Use another model, or scope linear, which is over linear layers alone.",
        )
    if not any(layer.kind == "linear" for layer in layers):
        raise RipcurrentError(
            f"No linear layer of {type(causal).__name__} holds a weight that can be read.",
            "Use the model's own weights, not packed ones.",
        )
    # linear layers that were given the very same tensor are one group; every other layer is its own
    groups: dict[object, list[TrackedLayer]] = {}
    for layer in layers:
        key = id(trial.inputs[layer.module][0]) if layer.kind == "linear" else layer.name
        groups.setdefault(key, []).append(layer)
    joined = tuple(LayerGroup(tuple(group)) for group in groups.values())
    tied = head.weight is embedding.weight and head_weight is not None
    return ModelLayers(causal, base, head, embedding, joined, head_weight, head_bias, tied)


def _parameters_in_scope(causal: Any, scope: Scope, base: nn.Module) -> set[str]:
    """Names of the parameters in scope."""
    everything = {name for name, _ in causal.named_parameters()}
    if scope == "all":
        return everything
    if scope == "lora":
        wanted = {name for name in everything if ".lora_A." in name or ".lora_B." in name}
        if not wanted:
            raise RipcurrentError(
                "Scope lora was asked for, but the model has no LoRA layers.",
                "Name an adapter, or use scope all or linear.",
            )
        return wanted
    inside = set(base.modules())
    return {
        f"{name}.{key}"
        for name, module in causal.named_modules()
        if module in inside and _is_linear(module)
        for key, _ in module.named_parameters(recurse=False)
    }


def _refuse_trained_beside(model: Any) -> None:
    """Refuse an adapter that trains more than the A and B of linear layers inside the model."""
    (config,) = model.peft_config.values()
    causal = model.get_base_model()
    trained_beside = {
        "whole layers (modules_to_save)": config.modules_to_save,
        "single tokens (trainable_token_indices)": config.trainable_token_indices,
        "biases": config.bias != "none" or config.lora_bias,
        "the embedding": any(".lora_embedding_" in name for name, _ in causal.named_parameters()),
        "the head": hasattr(causal.get_output_embeddings(), "base_layer"),
    }
    for what, there in trained_beside.items():
        if there:
            raise RipcurrentError(
                f"The adapter trains {what} beside linear layers' A and B, which are all that scope lora covers.",
                "Merge it: scope all or linear.",
            )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _refuse_coupled(name: str, module: nn.Module, shared: set[str | None], trial: TrialPass) -> None:
    """Refuse a layer whose gradient of one row is not a single product of its inputs and output gradients."""
    if shared:
        raise RipcurrentError(
            f"{name} shares its weight with another layer ({min(map(str, shared))}); its gradient is not a single "
            "product.",
            "Use another model.",
        )
    inputs = trial.inputs.get(module, [])
    if len(inputs) > 1:
        raise RipcurrentError(
            f"{name} is used {len(inputs)} times in one pass; its gradient is not a single product.",
            "Use scope linear or lora if that leaves it out, or another model.",
        )
    if _is_linear(module) and any(value.dim() != 3 for value in inputs):
        raise RipcurrentError(
            f"{name} is given the tokens of all rows in one list, as by mixture-of-experts layers.",
            "Rows cannot be told apart there; use another model.",
        )


def _track(name: str, module: nn.Module, in_scope: dict[str, str], trial: TrialPass) -> TrackedLayer:
    """The layer with the formula that the trial pass confirmed."""
    if any(not getattr(module, key).is_floating_point() for key in in_scope):
        raise RipcurrentError(
            f"The layer {name} ({type(module).__name__}) holds its weight packed in a few bits, which is not trained.",
            "Use scope lora, which is how such models are fine-tuned, or load the model unquantised.",
        )
    if module in trial.inputs and "weight" in in_scope and set(in_scope) <= {"weight", "bias"}:
        weight, bias = in_scope["weight"], in_scope.get("bias")
        if _is_linear(module):
            if trial.is_product(module):
                return TrackedLayer(name, module, "linear", weight, bias)
        elif isinstance(module, nn.Embedding):
            scale = trial.embedding_scale(module)
            if scale is not None:
                return TrackedLayer(name, module, "embedding", weight, bias, scale=scale)
        elif (norm := trial.norm(module)) is not None:
            kind, epsilon = norm
            return TrackedLayer(name, module, kind, weight, bias, epsilon=epsilon)
    if not all(torch.isfinite(getattr(module, key)).all() for key in in_scope):
        raise RipcurrentError(
            f"The layer {name} has weights that are not finite.",
            "A training that diverged leaves such; use a model from before it.",
        )
    raise RipcurrentError(
        f"The layer {name} ({type(module).__name__}) is of a kind whose gradient is not covered.",
        "Use scope linear or lora, which leave such layers out and say so.",
    )


class TrialPass:
    """Every module's inputs and outputs in one pass over a few tokens, by which each layer's formula is confirmed."""

    def __init__(self, causal: Any, base: nn.Module) -> None:
        self.inputs: dict[nn.Module, list[Tensor]] = {}
        self.outputs: dict[nn.Module, Tensor] = {}
        self.entered: set[nn.Module] = set()
        device = causal.get_input_embeddings().weight.device
        vocabulary = causal.get_input_embeddings().weight.shape[0]
        ids = torch.randint(0, vocabulary, (2, 6), generator=torch.Generator().manual_seed(0)).to(device)

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self.entered.add(module)
            value = args[0] if args else next(iter(kwargs.values()), None)
            if isinstance(value, Tensor) and isinstance(output, Tensor):
                self.inputs.setdefault(module, []).append(value)
                self.outputs[module] = output

        handles = [module.register_forward_hook(keep, with_kwargs=True) for module in causal.modules()]
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
        expected = nn.functional.linear(x.float(), matrix, offset)
        coarser: torch.dtype = min(weight.dtype, x.dtype, key=lambda kind: kind.itemsize)
        return _close(output, expected, coarser)

    def embedding_scale(self, module: nn.Embedding) -> float | None:
        """The constant by which the module's output exceeds its raw lookup; None when there is no such constant."""
        ids, output = self.inputs[module][0], self.outputs[module].float()
        if ids.is_floating_point() or ids.numel() * module.weight.shape[1] != output.numel():
            return None
        raw = module.weight[ids].float()
        scale = float((output * raw).sum() / raw.square().sum().clamp_min(1e-30))
        if not _close(output, raw * scale, module.weight.dtype):
            return None
        return 1.0 if abs(scale - 1.0) < 1e-3 else scale

    def norm(self, module: Any) -> tuple[NormKind, float] | None:
        """Which normalisation over the last axis the module is, and its epsilon; None when no formula fits."""
        epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if not isinstance(epsilon, float) or self.inputs[module][0].shape[-1:] != module.weight.shape:
            return None
        x, output = self.inputs[module][0].float(), self.outputs[module].float()
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
