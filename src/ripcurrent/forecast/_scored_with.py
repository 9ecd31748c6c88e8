"""What gradient scores rest on: scores of two scans are comparable where this is equal."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue

from ripcurrent.scan import ScanManifest

DECIDING = ("loss_on", "scope", "anchor_tokens", "row_tokens", "windows")
"""Options that change a row's gradient score; ``max_tokens`` changes those of truncated rows only."""


class ScoredWith(BaseModel):
    """The model, the anchors and the options that a scan's gradient scores rest on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str
    adapter: str | None
    """Name of the user's adapter, if there was one; its weights are in the fingerprint."""
    fingerprint: str
    """Identity of the weights, adapters included."""
    template_sha256: str | None
    tokenizer_sha256: str | None
    anchors: str
    anchors_sha256: str
    options: dict[str, JsonValue]

    @classmethod
    def of(cls, manifest: ScanManifest) -> ScoredWith:
        """What a scan's manifest says."""
        model, options = manifest.model, manifest.options.model_dump(mode="json")
        return cls(
            model=_name(model.name),
            adapter=_name(model.adapter) if model.adapter else None,
            fingerprint=model.fingerprint,
            template_sha256=model.template_sha256,
            tokenizer_sha256=model.tokenizer_sha256,
            anchors=_name(manifest.anchors.name),
            anchors_sha256=manifest.anchors.sha256,
            options={name: options[name] for name in (*DECIDING, "max_tokens")},
        )

    def difference(self, other: ScoredWith) -> str | None:
        """Why the other scan's scores are not comparable with this one's; None where they are."""
        if self.fingerprint != other.fingerprint:
            same = (self.model, self.adapter) == (other.model, other.adapter)
            return f"it is for the model {self._named()}, not {other._named()}" + (" of other weights" if same else "")
        if self.template_sha256 != other.template_sha256:
            return "it is for another chat template"
        if self.tokenizer_sha256 != other.tokenizer_sha256:
            return "it is for another tokenizer"
        if self.anchors_sha256 != other.anchors_sha256:
            return f"it is for other anchors ({self.anchors}, now {other.anchors})"
        for name in DECIDING:
            then, now = self.options.get(name), other.options.get(name)
            if then != now:
                return f"it is for scans with --{name.replace('_', '-')} {then}, not {now}"
        return None

    def _named(self) -> str:
        return self.model if self.adapter is None else f"{self.model} with {self.adapter}"


def _name(text: str) -> str:
    """A name without the folders it lies in: a hub id stays whole, a path keeps its last part."""
    is_path = text.startswith(("/", "./", "../", "~")) or "\\" in text or text.count("/") > 1
    return text.replace("\\", "/").rstrip("/").rpartition("/")[2] if is_path else text
