"""Which layers hold a model's parameters, of what kind they are, and what is left out of the scope.

A pass over a few tokens shows how often a layer is called, which layers share an input, and whether each layer's
formula is the known one. What it does not confirm is an error naming the module: a wrong gradient is worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients._trial_pass import TrialPass
from ripcurrent.models import Scope

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class TrackedLayer:
    """One module whose parameters are in scope."""

    name: str
    module: nn.Module
    kind: Literal["linear", "embedding", "rms_norm", "layer_norm"]
    """How its gradients are formed."""
    weight: str
    """Name of its weight parameter."""
    bias: str | None
    """Name of its bias parameter, if it has one in scope."""
    scale: float = 1.0
    """Embeddings: what the module multiplies the looked-up entry with."""
    epsilon: float = 0.0
    """Normalisations: what is added to the variance."""


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Linear layers fed by the same tensor, treated as one wider layer; or a single layer of any kind."""

    layers: tuple[TrackedLayer, ...]
    """The members, in order of call."""

    @property
    def linear(self) -> bool:
        """Whether the members' weights are those of matrix products."""
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
    """Name of the head's bias, if in scope."""
    tied: bool
    """Head and token embedding are one parameter in scope (named by ``head_weight``)."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Parameters outside the scope, and those that text never meets."""
        scored = self.parameter_shapes()
        return tuple(name for name, _ in self.causal.named_parameters() if name not in scored)

    def device_of(self, name: str) -> torch.device:
        """Where a parameter is, and so what is multiplied with it."""
        device: torch.device = self.causal.get_parameter(name).device
        return device

    def tables(self) -> list[TrackedLayer]:
        """The embedding tables."""
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
    """The layers of a frozen chat model that hold the parameters of a scope.

    Raises:
        RipcurrentError: a parameter in scope sits in a layer kind that is not covered, a layer is called more than
            once a pass, or the model has no linear head. Names the module.
    """
    if scope == "lora" and hasattr(model, "peft_config"):
        _refuse_trained_beside(model)
    causal = model.get_base_model() if hasattr(model, "peft_config") else model
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
    tied = head.weight is embedding.weight and head_weight is not None
    return ModelLayers(causal, base, head, embedding, _grouped(layers, trial), head_weight, head_bias, tied)


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


def _grouped(layers: list[TrackedLayer], trial: TrialPass) -> tuple[LayerGroup, ...]:
    """Linear layers that were given the very same tensor form one group; every other layer is its own."""
    groups: dict[object, list[TrackedLayer]] = {}
    for layer in layers:
        key = id(trial.inputs[layer.module][0]) if layer.kind == "linear" else layer.name
        groups.setdefault(key, []).append(layer)
    return tuple(LayerGroup(tuple(group)) for group in groups.values())
