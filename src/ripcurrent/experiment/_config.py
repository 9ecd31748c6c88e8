"""An experiment file: what is scanned, which arms are trained, what is asked, how it is judged."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    field_validator,
    model_validator,
)

from ripcurrent.evaluate import DEFAULT_JUDGES, JudgeOptions
from ripcurrent.options import did_you_mean
from ripcurrent.select import number_of_rows

MATCHES = ("length_matched", "format_matched", "loss_matched")
RULES = ("select", *MATCHES, "draw", "mix", "all_but")
"""Keys of an arm that say where its rows come from: each arm has exactly one of them."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What arms and scans may be called: the name becomes a folder's."""

PLACEHOLDERS = ("rows", "out", "seed", "model", "gpu", "files")
PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def _size(value: Any) -> Any:
    if isinstance(value, bool | float):
        raise ValueError(f"{value!r} is not a number of rows: give 1 or more, or a share such as '20%'")  # noqa: TRY004
    number_of_rows(value, 100)
    return value


Size = Annotated[int | str, BeforeValidator(_size)]
"""A number of rows, or a share of the usable rows such as ``20%``."""


def _one_or_more(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


class Settings(BaseModel):
    """Frozen, and no key but those declared. A bare word stands for the first key."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {next(iter(cls.model_fields)): value} if isinstance(value, str) else value


class Mix(Settings):
    """A mixture: the riskiest rows or random ones of a format, the rest at random of all others."""

    of: Literal["top", "list", "bullet", "numbered", "maths", "code"]
    percent: Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], BeforeValidator(_one_or_more)]
    """Its share of the rows; several make an arm each."""


class ArmRule(Settings):
    """Where an arm's rows come from. One of the keys of `RULES`, and what varies it."""

    select: Literal["top", "bottom", "union", "random", "all"] | None = None
    """``top`` (riskiest), ``bottom``, ``union`` (of each harmful anchor's nearest rows), ``random``, or ``all``."""
    length_matched: str | None = None
    """Random rows, one to one of nearest response length to those of the arm named."""
    format_matched: str | None = None
    """Random rows, one to one of the same format traits as those of the arm named."""
    loss_matched: str | None = None
    """Rows, one to one of nearest length and loss of the first ten tokens to those of the arm named."""
    draw: Literal["list", "bullet", "numbered", "maths", "code"] | None = None
    mix: Mix | None = None
    all_but: ArmRule | None = None
    """Every usable row but those of a selection."""
    by: str | None = None
    """Score column that ranks; the scan's default ranking when left out."""
    size: Size | None = None
    """Rows; the experiment's ``size`` when left out."""
    jitter: Size | None = None
    """Each seed draws its rows from so many of the ranking's end: runs differ in rows, not in order alone."""
    scan: str | None = None
    """Which scan's scores rank and whose dataset gives the rows; the main one when left out."""
    recipe: str | None = None
    """Another recipe than the experiment's."""

    @model_validator(mode="after")
    def _one_rule(self) -> ArmRule:
        named = [key for key in RULES if getattr(self, key) is not None]
        if len(named) != 1:
            there = " and ".join(named) or "none"
            raise ValueError(f"an arm needs exactly one of {', '.join(RULES)}; it has {there}")
        rule = f"select: {self.select}" if self.select else named[0]
        ranked = self.select in ("top", "bottom") or (self.mix is not None and self.mix.of == "top")
        ends = self.select in ("top", "bottom")
        for key, is_possible in (("by", ranked), ("size", self.takes_size), ("jitter", ends)):
            if getattr(self, key) is not None and not is_possible:
                raise ValueError(f"{key} means nothing beside {rule}")
        if self.all_but is not None and (not self.all_but.select or self.all_but.scan or self.all_but.recipe):
            raise ValueError("all_but takes a selection with by and size; scan and recipe stand beside it")
        return self

    @property
    def matched(self) -> str | None:
        """The arm that this one is matched to."""
        return next((own for key in MATCHES if (own := getattr(self, key)) is not None), None)

    @property
    def kind(self) -> str:
        """The rule's word: ``top``, ``random``, ``length_matched`` and so on."""
        return self.select or next(key for key in RULES if getattr(self, key) is not None)

    @property
    def takes_size(self) -> bool:
        """Whether it is of a number of rows."""
        return self.kind not in ("all", *MATCHES, "all_but")


class ScanSource(Settings):
    """A scan to choose rows by: an existing run, or options of one that the experiment makes."""

    run: str | None = None
    """Folder of a finished scan; then nothing else is given."""
    data: str | None = None
    """The experiment's when left out."""
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _belong_together(self) -> ScanSource:
        if self.run is not None and (self.data or self.options):
            raise ValueError("give either run, a finished scan, or what is to be scanned")
        return self


class PromptSource(Settings):
    """Prompts of one source."""

    source: str
    """Anything that ``ripcurrent evaluate --prompts`` takes."""
    axis: Literal["harmful", "sounds_dangerous", "plain"] | None = None
    """Keep this axis only; the axis of prompts that do not say theirs (``harmful`` when left out)."""
    limit: int | None = Field(default=None, ge=1)
    """Largest number of prompts, drawn by category."""


class TaskChoice(Settings):
    """Tasks of the lm-evaluation-harness, for the untrained model and every arm."""

    names: Annotated[tuple[str, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
    """Names, or paths of task files."""
    limit: int | None = Field(default=None, ge=1)
    """First N questions of each; all when left out."""


class TrainCommand(Settings):
    """A command that trains an arm: the user's own trainer. `PLACEHOLDERS` in braces stand for what is the arm's."""

    command: str = Field(pattern=r"\S")
    """Its words, as for a shell; none is used."""
    result: dict[Literal["adapter", "model"], str] = Field(default={"adapter": ""}, min_length=1, max_length=1)
    """What it leaves, and the folder below ``{out}`` in which to look for it."""
    files: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = ()
    """Files with placeholders; ``{files}`` is the folder of an arm's copies, filled in."""
    env: dict[str, SecretStr] = Field(default_factory=dict)
    """Variables beside those of this process. No file holds their values."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds after which it is stopped."""

    @field_validator("command")
    @classmethod
    def _known(cls, value: str) -> str:
        for name in PLACEHOLDER.findall(" ".join(shlex.split(value))):
            if name not in PLACEHOLDERS:
                raise ValueError(f"there is no placeholder {{{name}}}.{did_you_mean(name, PLACEHOLDERS)}")
        return value

    @field_validator("result", mode="before")
    @classmethod
    def _anywhere(cls, value: Any) -> Any:
        return {value: ""} if isinstance(value, str) else value

    @property
    def kind(self) -> Literal["adapter", "model"]:
        """What it leaves."""
        return next(iter(self.result))


class ExperimentConfig(Settings, JudgeOptions):
    """An experiment: arms × seeds on one model. The page of experiments explains every key."""

    name: str
    title: str = ""
    data: str | None = None
    """That of ``run`` when left out, as is the model."""
    format: str | None = None
    model: str = "embedded"
    adapter: str | None = None
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    run: str | None = None
    """Folder of a finished scan to choose rows by; or give ``scan``, options of one to make."""
    scan: dict[str, JsonValue] = Field(default_factory=dict)
    scans: dict[str, ScanSource] = Field(default_factory=dict)
    anchor_check: bool = True
    """False: scan even if the anchors do not separate on this model."""
    train: TrainCommand | None = None
    """A command that trains the arms, in place of ``recipe``."""
    recipe: str = Field(default_factory=lambda values: "" if values.get("train") else "embedded")
    size: Size = 100
    sizes: tuple[Size, ...] = ()
    """Every arm that has a size once with each of these."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    """One run of every arm each; a number stands for 0, 1, …"""
    arms: dict[str, ArmRule] = Field(min_length=1)
    control: str | None = "random"
    """What every other arm is compared with; null for nothing."""
    compare: tuple[tuple[str, str], ...] = ()
    """Further pairs of arms to compare, the first against the second."""
    verdict_on: tuple[str, ...] = ()
    """Arms that decide the verdict; all but controls and ``bottom`` when left out."""
    prompts: Annotated[tuple[PromptSource, ...], BeforeValidator(_one_or_more)] = (PromptSource(source="builtin"),)
    tasks: TaskChoice | None = None
    """What else each model is scored on."""
    judges: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = DEFAULT_JUDGES
    """The verdict is the first one's."""
    max_new_tokens: int = Field(default=48, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    system: str | None = None
    heldout: int = Field(default=40, ge=0)
    """Rows kept out of every arm, for the loss on rows of the set that no arm trained on; 0 for none."""
    keep_models: bool = False

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_list(cls, value: Any) -> Any:
        return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("arms", "scans", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} gives no names: write NAME: RULE, such as riskiest: top")  # noqa: TRY004
        return {str(name): one for name, one in value.items()}

    @model_validator(mode="after")
    def _belong_together(self) -> ExperimentConfig:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds are whole numbers from 0 up, each once, at least one")
        if self.run is not None and self.scan:
            raise ValueError("give either run, a finished scan, or scan, options of one to make")
        if self.run is None and self.data is None:
            raise ValueError("give data, the dataset, or run, a finished scan of it")
        if self.train is not None and (self.recipe or any(rule.recipe for rule in self.arms.values())):
            raise ValueError("give either recipe or train, a command that trains in its own way")
        for name in self.scans:
            # each lies in a folder of its name, beside the main one's
            if not NAME.fullmatch(name) or name == "main":
                raise ValueError(f"scans: {name!r} cannot be the name of a scan")
        return self


KNOWN = tuple(key for model in Settings.__subclasses__() for key in model.model_fields)
