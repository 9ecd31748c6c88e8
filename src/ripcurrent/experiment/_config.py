"""An experiment file: what is scanned, which arms are trained, what is asked, how it is judged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Selecting = Literal["top", "bottom", "highest", "lowest", "union", "random", "all"]
"""Rules that need nothing but the scores."""

Format = Literal["list", "bullet", "numbered", "maths", "code"]
"""Response formats that rows can be drawn from."""

RULES: tuple[str, ...] = (
    "select",
    "length_matched",
    "format_matched",
    "draw",
    "share",
    "mix",
    "bins",
    "within_length",
    "file",
    "all_but",
    "all_but_random",
)
"""Keys of an arm that say where its rows come from: each arm has exactly one of them."""

INNER: tuple[str, ...] = ("select", "draw", "share", "mix", "within_length")
"""Rules that ``all_but`` takes in place of an arm's name."""

BESIDE: dict[str, tuple[str, ...]] = {
    "by": ("select", "mix", "bins", "within_length"),
    "format": ("file",),
    "size": (*INNER, "file", "bins"),
    "strata": ("within_length",),
}
"""Keys that vary a rule, and the rules that they mean something to."""

WITHOUT: dict[str, tuple[str, ...]] = {"by": ("random", "all", "union"), "size": ("all",)}
"""Keys that mean nothing to some of the selections."""

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What an arm may be called: its name becomes a folder's."""


def _one_of_these(value: Any) -> Any:
    if isinstance(value, bool | float):
        raise ValueError(  # noqa: TRY004  # pydantic tells of these
            f"{value!r} is no number of rows: give 1 or more, or a share such as '20%'"
        )
    return value


Size = Annotated[int | str, BeforeValidator(_one_of_these)]
"""A number of rows, or a share of the usable rows such as ``20%``."""


class Settings(BaseModel):
    """Frozen, and no key but those declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Share(Settings):
    """A mixture: so much of one format, the rest of all other rows."""

    format: Format
    """The format."""
    percent: tuple[float, ...]
    """Share of its rows, 0 to 100; several make an arm each."""

    @field_validator("percent", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)

    @field_validator("percent")
    @classmethod
    def _are_shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 <= percent <= 100 for percent in value):
            raise ValueError("percent is from 0 to 100")
        return value


class Mix(Settings):
    """A mixture: so many percent of the riskiest rows and of the most protective ones, the rest at random."""

    top: float = Field(default=0, ge=0, le=100)
    """Share of the riskiest rows, 0 to 100."""
    bottom: float = Field(default=0, ge=0, le=100)
    """Share of the most protective rows."""

    @model_validator(mode="after")
    def _at_most_all(self) -> Mix:
        if self.top + self.bottom > 100:
            raise ValueError("top and bottom are more than 100 % together")
        return self


class ArmRule(Settings):
    """Where an arm's rows come from. One of the keys of `RULES`, and what varies it."""

    select: Selecting | None = None
    """``top`` (riskiest), ``bottom``, ``highest``, ``lowest``, ``union`` (of each harmful anchor's nearest rows),
    ``random``, or ``all`` usable rows."""
    length_matched: str | None = None
    """Random rows, one to one of nearest response length to those of the arm named."""
    format_matched: str | None = None
    """Random rows, one to one of the same format traits as those of the arm named."""
    draw: Format | None = None
    """Random rows of one format."""
    share: Share | None = None
    """A mixture of a format and the rest."""
    mix: Mix | None = None
    """A mixture of riskiest, most protective and random rows."""
    bins: int | None = Field(default=None, ge=2, le=20)
    """So many arms, of equal numbers of rows by score; the last one is the riskiest, or of a column that ranks no risk
    the highest."""
    within_length: Literal["top", "bottom"] | None = None
    """The riskiest or most protective rows of each of ``strata`` strata of response length."""
    strata: int = Field(default=10, ge=2)
    """Strata of ``within_length``: equal numbers of usable rows."""
    file: str | None = None
    """Rows drawn at random from another dataset."""
    format: str | None = None
    """Row format of ``file``; sniffed when left out."""
    all_but: str | ArmRule | None = None
    """Every usable row but those of the arm named, or of a rule given here."""
    all_but_random: Size | None = None
    """Every usable row but so many at random."""
    by: str | None = None
    """Score column that ranks; the scan's default ranking when left out."""
    size: Size | None = None
    """Rows; the experiment's ``size`` when left out. Of ``bins``: rows drawn from each bin, all when left out."""
    scan: str | None = None
    """Which scan's scores rank and whose dataset gives the rows; the main one when left out."""
    recipe: str | None = None
    """Another recipe than the experiment's."""
    draw_seed: int | None = Field(default=None, ge=0)
    """Fixes what is drawn, so that seeds differ in training alone."""
    training_seed: int | None = Field(default=None, ge=0)
    """Fixes the order of training, so that seeds differ in what is drawn alone."""

    @model_validator(mode="after")
    def _one_rule(self) -> ArmRule:
        named = [key for key in RULES if getattr(self, key) is not None]
        if len(named) != 1:
            found = f"it has {' and '.join(named)}" if named else "it has none"
            raise ValueError(f"an arm needs exactly one of {', '.join(RULES)}; {found}")
        rule = named[0]
        for key, rules in BESIDE.items():
            if key in self.model_fields_set and getattr(self, key) is not None and rule not in rules:
                raise ValueError(f"{key} means nothing beside {rule}; it goes with {', '.join(rules)}")
        for key, selections in WITHOUT.items():
            if getattr(self, key) is not None and self.select in selections:
                raise ValueError(f"{key} means nothing beside select: {self.select}")
        if self.scan is not None and rule == "file":
            raise ValueError("scan means nothing beside file, whose rows have no scores")
        if isinstance(self.all_but, str) and self.draw_seed is not None:
            raise ValueError(f"draw_seed means nothing beside all_but: {self.all_but}, which draws with its own")
        if isinstance(self.all_but, ArmRule):
            self._refuse_inner(self.all_but)
        return self

    @staticmethod
    def _refuse_inner(inner: ArmRule) -> None:
        if inner.rule not in INNER:
            raise ValueError(f"all_but takes the name of an arm, or one of {', '.join(INNER)}")
        for key in ("draw_seed", "training_seed", "recipe"):
            if getattr(inner, key) is not None:
                raise ValueError(f"{key} stands beside all_but, not in it")
        if inner.share is not None and len(inner.share.percent) > 1:
            raise ValueError("a share in all_but has one percent")

    @field_validator("size", "all_but_random")
    @classmethod
    def _is_a_size(cls, value: Size | None) -> Size | None:
        if value is not None:
            rows_of(value, 100)
        return value

    @property
    def rule(self) -> str:
        """Which of `RULES` it has."""
        return next(key for key in RULES if getattr(self, key) is not None)

    @property
    def refers_to(self) -> str | None:
        """The arm that this one is made from, by name."""
        other = self.length_matched or self.format_matched or self.all_but
        return other if isinstance(other, str) else None


class Scan(Settings):
    """A scan to choose rows by: an existing run, or options of one that the experiment makes."""

    run: str | None = None
    """Folder of a finished scan; then nothing else is given."""
    data: str | None = None
    """Dataset of this scan; the experiment's when left out."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of ``ripcurrent scan``, by name."""
    anchors: tuple[str, ...] = ()
    """Anchor sets whose sets of the same name are put together: ``builtin``, ``second_family``, files."""
    anchors_per_set: int | None = Field(default=None, ge=4)
    """So many anchors of each set, at the same random places in all of them."""

    @model_validator(mode="after")
    def _belong_together(self) -> Scan:
        if self.run is not None and (self.data or self.options or self.anchors or self.anchors_per_set):
            raise ValueError("give either run, a finished scan, or what is to be scanned")
        return self


class PromptSource(Settings):
    """Prompts of one source."""

    source: str
    """Anything that ``ripcurrent evaluate --prompts`` takes."""
    axis: Literal["harmful", "sounds_dangerous", "plain"] | None = None
    """Keep this axis only; the axis of prompts that do not say theirs (``harmful`` when left out)."""
    limit: int | None = Field(default=None, ge=1)
    """So many prompts, drawn by category."""
    seed: int = Field(default=0, ge=0)
    """Seed of that draw."""
    without: tuple[str, ...] = ()
    """Leave out near-duplicates of these: ``anchors`` (both built-in families), or anything that ``source`` takes."""


class Accuracy(Settings):
    """Sums with a known result, as a measure of usefulness."""

    file: str
    """Questions and worked answers (``question``, ``answer`` with the result after ``####``)."""
    limit: int = Field(default=50, ge=1)
    """So many of them, drawn at random."""
    max_new_tokens: int = Field(default=200, ge=1)
    """Longest answer."""


class ExperimentConfig(Settings):
    """An experiment: arms × seeds on one model."""

    name: str
    """Its name: the file's when left out."""
    title: str = ""
    """What it asks, in a sentence for the page."""
    data: str | None = None
    """The dataset; that of ``run`` when left out."""
    format: str | None = None
    """Row format of ``data``; sniffed when left out."""
    model: str = "embedded"
    """Hub id, folder, ``.gguf`` file, or ``embedded``; the model of ``run`` when left out."""
    adapter: str | None = None
    """PEFT adapter that belongs to the model."""
    device: str | None = None
    """``cuda``, ``mps``, ``cpu``; chosen when left out."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the products; chosen when left out."""
    run: str | None = None
    """Folder of a finished scan to choose rows by; or give ``scan``."""
    scan: dict[str, Any] = Field(default_factory=dict)
    """Options of the scan that the experiment makes, by name."""
    scans: dict[str, Scan] = Field(default_factory=dict)
    """Further scans by name, for arms with ``scan:``."""
    recipe: str = "embedded"
    """``paper``, ``lora``, ``embedded``, or a YAML file."""
    finetune: dict[str, Any] = Field(default_factory=dict)
    """``max_tokens`` and ``loss_on`` of ``ripcurrent finetune``; the scan's when left out."""
    size: Size = 100
    """Rows of an arm."""
    sizes: tuple[Size, ...] = ()
    """Every arm that has a size once with each of these."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every arm each; a number stands for 0, 1, …"""
    arms: dict[str, ArmRule] = Field(default_factory=dict)
    """The arms by name."""
    grid: tuple[dict[str, Any], ...] = ()
    """Arms as all combinations of keys with lists of values."""
    control: str | None = "random"
    """The arm that every other one is compared with; null for none."""
    compare: tuple[tuple[str, str], ...] = ()
    """Further pairs of arms to compare, the first against the second."""
    verdict_on: tuple[str, ...] = ()
    """Arms that decide the verdict; all but controls and ``bottom`` when left out."""
    base: bool = True
    """Also evaluate the model as it is, as arm ``base``."""
    prompts: tuple[PromptSource, ...] = (PromptSource(source="builtin"),)
    """What the arms are asked."""
    judges: tuple[str, ...] = ("prefix", "keyword")
    """Who judges; the verdict is the first one's."""
    judge_endpoint: str | None = None
    """OpenAI-compatible endpoint of judges that ask a language model, as in ``http://localhost:8000/v1``."""
    judge_model: str | None = None
    """Name of the judging model there."""
    judge_key_env: str | None = None
    """Environment variable with the endpoint's key; ``RIPCURRENT_API_KEY`` when left out."""
    judge_timeout: float = Field(default=60.0, gt=0)
    """Seconds that the judging model may be silent, in one attempt of five."""
    judge_concurrency: int = Field(default=4, ge=1)
    """Requests to the judging model under way at once."""
    judge_max_tokens: int | None = Field(default=None, ge=1)
    """Longest reply of the judging model, its thoughts included; 1024 when left out."""
    max_new_tokens: int = Field(default=48, ge=1)
    """Longest answer."""
    batch_size: int | None = Field(default=None, ge=1)
    """Answers generated at once; chosen when left out."""
    system: str | None = None
    """System prompt of every question."""
    heldout: int = Field(default=40, ge=0)
    """Rows kept out of every arm, for the loss on rows of the set that no arm trained on; 0 for none."""
    gsm8k: Accuracy | None = None
    """Also measure the accuracy on these sums, where the base model reaches 10 %."""
    keep_models: bool = False
    """Keep each arm's trained model after its evaluation."""

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_list(cls, value: Any) -> Any:
        return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("seeds")
    @classmethod
    def _are_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 0 or len(set(value)) < len(value):
            raise ValueError("seeds are whole numbers from 0 up, each once, at least one")
        return value

    @field_validator("grid", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, dict) else value

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, value: Size) -> Size:
        rows_of(value, 100)
        return value

    @field_validator("sizes")
    @classmethod
    def _are_sizes(cls, value: tuple[Size, ...]) -> tuple[Size, ...]:
        for size in value:
            rows_of(size, 100)
        return value

    @model_validator(mode="after")
    def _belong_together(self) -> ExperimentConfig:
        if not self.arms and not self.grid:
            raise ValueError("there are no arms")
        if self.run is not None and self.scan:
            raise ValueError("give either run, a finished scan, or scan, options of one to make")
        if self.run is None and self.data is None:
            raise ValueError("give data, the dataset, or run, a finished scan of it")
        return self


def rows_of(size: Size, usable: int) -> int:
    """A size as a number of rows.

    Raises:
        ValueError: Neither a number from 1 up nor a share above 0 and up to 100 %.
    """
    text = str(size).replace(" ", "")
    try:
        if text.endswith("%"):
            share = float(text[:-1])
            if 0 < share <= 100:
                return max(1, round(usable * share / 100))
        elif int(text) >= 1:
            return int(text)
    except ValueError:
        pass
    raise ValueError(f"{size!r} is no number of rows: give 1 or more, or a share such as '20%'")
