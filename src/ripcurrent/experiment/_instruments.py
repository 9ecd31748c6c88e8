"""The keys of the files that measure instead of train arms: ``kind: probe``, ``mechanism`` and ``edits``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._config import NAME, PromptSource, Settings
from ripcurrent.experiment._format_edits import EDITS
from ripcurrent.experiment._read import _build, _nearest

S = TypeVar("S", bound="Scanned")


class Scanned(Settings):
    """A scan to work on: a finished one by its folder, or a dataset and how to scan it."""

    run: str | None = None
    """Folder of a finished scan; or give ``data``."""
    data: str | None = None
    """Dataset to scan."""
    format: str | None = None
    """Row format of ``data``; sniffed when left out."""
    model: str | None = None
    """Hub id, folder, ``.gguf`` file, or ``embedded`` (when left out); of ``run``, its own."""
    adapter: str | None = None
    """PEFT adapter that belongs to the model."""
    device: str | None = None
    """``cuda``, ``mps``, ``cpu``; chosen when left out."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the products; chosen when left out."""
    scan: dict[str, Any] = Field(default_factory=dict)
    """Options of ``ripcurrent scan``, by name."""

    @model_validator(mode="after")
    def _one_scan(self) -> Scanned:
        if (self.run is None) == (self.data is None):
            raise ValueError("give either run, a finished scan, or data, a dataset to scan")
        if self.run is not None:
            also = [key for key in ("format", "model", "adapter", "scan") if getattr(self, key)]
            if also:
                raise ValueError(f"the finished scan says its {also[0]}: leave {also[0]} out, or give data, not run")
        return self

    @property
    def scan_options(self) -> dict[str, Any]:
        """Options of the scan to make of ``data``."""
        own = {key: getattr(self, key) for key in ("format", "model", "adapter", "device", "dtype")}
        return {**{key: value for key, value in own.items() if value is not None}, **self.scan}


class ProbeConfig(Scanned):
    """A per-row probe: what a few optimizer steps on one row alone do to refusals."""

    kind: Literal["probe"] = "probe"
    """What the file is."""
    name: str = "probe"
    """Its name: the file's when left out."""
    title: str = ""
    """What it asks, in a sentence."""
    rows: int = Field(default=200, ge=4)
    """Rows that are probed."""
    by: str | None = None
    """Score column whose strata they are drawn from; the scan's default ranking when left out."""
    strata: int = Field(default=10, ge=1)
    """Equal bins of that column, equally many rows from each."""
    seed: int = Field(default=0, ge=0)
    """Seed of that draw, of the requests' and of the bootstrap."""
    steps: int = Field(default=3, ge=1)
    """Adam steps on the row."""
    learning_rate: float = Field(default=1e-5, gt=0, allow_inf_nan=False)
    """Their constant rate."""
    prompts: PromptSource = PromptSource(source="builtin", axis="harmful", limit=24)
    """Held-out harmful requests."""
    openings: tuple[str, ...] | None = None
    """Beginnings of a refusal; a built-in English list when left out."""

    @field_validator("openings")
    @classmethod
    def _are_openings(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not (value and all(opening.strip() for opening in value)):
            raise ValueError("give one opening or more, none of them empty")
        return value


class Pool(Scanned):
    """One pool of rows."""

    name: str = Field(pattern=f"^{NAME}$")
    """Its name in the table."""


class MechanismConfig(Settings):
    """Whether similarity in states means similarity in gradients: rank correlations, pool by pool."""

    kind: Literal["mechanism"] = "mechanism"
    """What the file is."""
    name: str = "mechanism"
    """Its name: the file's when left out."""
    title: str = ""
    """What it asks, in a sentence."""
    pools: tuple[Pool, ...]
    """The pools, each a finished scan or a dataset to scan; both signals are needed."""
    model: str | None = None
    """Model of every pool that has ``data`` and names none."""
    adapter: str | None = None
    """PEFT adapter that belongs to it."""
    device: str | None = None
    """``cuda``, ``mps``, ``cpu``; chosen when left out."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the products; chosen when left out."""
    scan: dict[str, Any] = Field(default_factory=dict)
    """Options of ``ripcurrent scan`` for these pools, by name."""
    seed: int = Field(default=0, ge=0)
    """Seed of the bootstrap."""

    @field_validator("pools")
    @classmethod
    def _have_names(cls, value: tuple[Pool, ...]) -> tuple[Pool, ...]:
        names = [pool.name for pool in value]
        if not names or len(set(names)) < len(names):
            raise ValueError("give one pool or more, each with a name of its own")
        return value

    def resolved(self, pool: Pool) -> Pool:
        """A pool with what it takes from the file."""
        if pool.run is not None:
            return pool
        own = {key: getattr(pool, key) or getattr(self, key) for key in ("model", "adapter", "device", "dtype")}
        if pool.model is not None:
            # the file's adapter is of the file's model
            own["adapter"] = pool.adapter
        return pool.model_copy(update={**own, "scan": {**self.scan, **pool.scan}})


class EditsConfig(Scanned):
    """Rewrites of rows by rule, each changing one aspect of their format at (nearly) equal length."""

    kind: Literal["edits"] = "edits"
    """What the file is."""
    name: str = "edits"
    """Its name: the file's when left out."""
    title: str = ""
    """What it asks, in a sentence."""
    edits: tuple[str, ...] = tuple(EDITS)
    """Which rewrites; all of them when left out."""
    tolerance: float = Field(default=0.05, gt=0, le=1)
    """Largest change of a row's response tokens, as a share; rows beyond it are left out and counted."""
    limit: int | None = Field(default=None, ge=1)
    """Rows per edit that are scored, drawn with ``seed``; all that the edit changes when left out."""
    seed: int = Field(default=0, ge=0)
    """Seed of that draw and of the bootstrap; the arms' are ``seeds`` of ``arms``."""
    size: int = Field(default=100, ge=1)
    """Rows of an arm."""
    smallest_arm: int = Field(default=20, ge=1)
    """An edit with fewer rows gets no arms."""
    arms: dict[str, Any] | None = None
    """``true``, or keys of an experiment of arms (``seeds``, ``recipe``, ``prompts``…): also train on the original and
    on the edited rows of each edit and compare what is answered; scores alone when left out."""

    @field_validator("arms", mode="before")
    @classmethod
    def _true_is_no_keys(cls, value: Any) -> Any:
        return ({} if value else None) if isinstance(value, bool) else value

    @field_validator("edits")
    @classmethod
    def _exist(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("give one edit or more, each once")
        return value


def parse_probe(values: Mapping[str, Any], *, where: str) -> ProbeConfig:
    """A probe from its keys and values; ``where`` names their source in errors.

    Raises:
        RipcurrentError: A key (the nearest one is named) or a value that is not possible.
    """
    built = dict(values)
    if "prompts" in built:
        prompts: PromptSource = _build(PromptSource, built["prompts"], f"{where}: prompts")
        built["prompts"] = prompts if prompts.axis else prompts.model_copy(update={"axis": "harmful"})
    config: ProbeConfig = _build(ProbeConfig, built, where)
    return config


def parse_mechanism(values: Mapping[str, Any], *, where: str) -> MechanismConfig:
    """A mechanism table from its keys and values; raises as `parse_probe` does."""
    built = dict(values)
    if isinstance(built.get("pools"), list):
        built["pools"] = [_build(Pool, pool, f"{where}: pools") for pool in built["pools"]]
    config: MechanismConfig = _build(MechanismConfig, built, where)
    return config


def parse_edits(values: Mapping[str, Any], *, where: str) -> EditsConfig:
    """Format edits from their keys and values; raises as `parse_probe` does, and for an edit that does not exist."""
    config: EditsConfig = _build(EditsConfig, dict(values), where)
    for name in config.edits:
        if name not in EDITS:
            raise RipcurrentError(
                f"{where}: there is no edit {name!r}.{_nearest(name, tuple(EDITS))}", f"Edits: {', '.join(EDITS)}."
            )
    return config
