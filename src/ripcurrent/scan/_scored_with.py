"""What decides a row's scores, as a scan's manifest has it: scores are comparable where this is equal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from ripcurrent.scan._columns import GRADIENT_COLUMNS, REPRESENTATION_COLUMNS, SET_COSINE

_ALWAYS = ("loss_on",)
_OF_GRADIENTS = ("preset", "scope", "anchor_tokens", "row_tokens")
_OF_REPRESENTATIONS = ("preset", "position", "layer", "avg_n")


class ScoredWith(BaseModel):
    """The model, the anchors and the options that a scan's scores rest on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str
    """Name of the model."""
    adapter: str | None
    """Name of the user's adapter, if there was one; its weights are in the fingerprint."""
    fingerprint: str
    """Identity of the weights, adapters included."""
    template_sha256: str | None
    """Hash of the chat template."""
    tokenizer_sha256: str | None
    """Hash of the tokenizer."""
    anchors: str
    """Name of the anchors."""
    anchors_sha256: str
    """Their hash."""
    options: dict[str, Any]
    """Options of the scan that change scores, and ``max_tokens``, which changes those of cut rows only."""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> ScoredWith:
        """What a scan's manifest says.

        Raises:
            KeyError: It is no scan's.
        """
        model, anchors, options = manifest["model"], manifest["anchors"], manifest["options"]
        kept = dict.fromkeys((*_ALWAYS, *_OF_GRADIENTS, *_OF_REPRESENTATIONS, "max_tokens", "windows"))
        return cls(
            model=_name(model["name"]),
            adapter=_name(model["adapter"]) if model["adapter"] else None,
            fingerprint=model["fingerprint"],
            template_sha256=model["template_sha256"],
            tokenizer_sha256=model["tokenizer_sha256"],
            anchors=_name(anchors["name"]),
            anchors_sha256=anchors["sha256"],
            options={name: options[name] for name in kept if name in options},
        )

    def difference(self, other: ScoredWith, columns: Collection[str]) -> str | None:
        """Why these columns of the other scan are not comparable with this one's, in words; None where they are."""
        if self.fingerprint != other.fingerprint:
            return f"it is for the model {_with(self.model, self.adapter)}, not {_with(other.model, other.adapter)}" + (
                "" if (self.model, self.adapter) != (other.model, other.adapter) else " of other weights"
            )
        for what in ("template_sha256", "tokenizer_sha256"):
            if getattr(self, what) != getattr(other, what):
                return f"it is for another {'chat template' if what.startswith('template') else 'tokenizer'}"
        if self.anchors_sha256 != other.anchors_sha256:
            return f"it is for other anchors ({self.anchors}, now {other.anchors})"
        deciding = [*_ALWAYS]
        deciding += _OF_GRADIENTS if any(name in (*GRADIENT_COLUMNS, SET_COSINE) for name in columns) else ()
        deciding += _OF_REPRESENTATIONS if any(name in REPRESENTATION_COLUMNS for name in columns) else ()
        for name in deciding:
            if self.options.get(name) != other.options.get(name):
                then, now = self.options.get(name), other.options.get(name)
                return f"it is for scans with --{name.replace('_', '-')} {then}, not {now}"
        # one of before there were windows says nothing of them
        cut = [bool(one.options.get("windows")) for one in (self, other)]
        if cut[0] != cut[1]:
            return f"it is for scans with{'' if cut[0] else 'out'} --windows"
        return None


def _name(text: str) -> str:
    """A name without the folders it lies in: a hub id stays whole, a path keeps its last part."""
    is_path = text.startswith(("/", "./", "../", "~")) or "\\" in text or text.count("/") > 1
    return text.replace("\\", "/").rstrip("/").rpartition("/")[2] if is_path else text


def _with(model: str, adapter: str | None) -> str:
    return model if adapter is None else f"{model} with {adapter}"
