"""What an experiment leaves: the record of each arm, its tables, and the whole as ``results.json``."""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import TaskScore
from ripcurrent.experiment._file import BASE
from ripcurrent.experiment._prompts import PromptRecord
from ripcurrent.runs import Manifest, write_json
from ripcurrent.statistics import Discrimination, Flips

RESULTS = "results.json"
MARKER = "arm.json"
"""Written last into an arm's folder: it is never computed again."""

ExperimentVerdict = Literal["worse than random", "no evidence", "not enough evidence"]
Finding = ExperimentVerdict | Literal["this run"]
"""``this run``: one run of an arm or its control says nothing of other draws and orders."""
Limit = Literal["ceiling", "floor"]
"""The recipe is too strong or too weak to tell what rows do."""
Bounds = tuple[float | None, float | None]
Facts = dict[str, JsonValue]


class Entry(BaseModel):
    """One row of a table."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    def write(self, path: Path) -> None:
        """Keep it as JSON, null for what is not finite."""
        write_json(path, json.loads(self.model_dump_json()))

    @classmethod
    def load(cls, path: Path, hint: str) -> Self:
        """What was written; an error gives the hint."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise RipcurrentError(f"{path} cannot be read: {str(error).splitlines()[0]}.", hint) from error


class ArmIdentity(Entry):
    """What makes two runs of an arm the same: rule, recipe, and a hash of dataset and row numbers."""

    rule: Facts
    recipe: Facts
    rows_sha256: str


class ArmRows(Entry):
    """What an arm trained on; the record in its folder ``rows`` says more."""

    rule: str
    count: int
    mean_response_tokens: float | None = None
    mean_scores: dict[str, float | None] = Field(default_factory=dict)


class ArmRecord(Entry):
    """One run of an arm, or of the untrained model: ``arm.json``."""

    arm: str
    seed: int | None
    status: Literal["finished", "failed"] = "finished"
    reason: str | None = None
    identity: ArmIdentity | None = None
    rows: ArmRows | None = None
    heldout_loss: float | None = None
    """Nats per token on rows that no arm trained on."""
    tasks: tuple[TaskScore, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def every(cls, experiment: Path) -> dict[Path, Self]:
        """The records in an experiment's folder, by the folders of their arms."""
        markers = sorted((experiment / "arms").glob(f"*/{MARKER}"))
        return {marker.parent: cls.load(marker, "Remove that arm's folder to repeat it.") for marker in markers}


class UnfinishedRun(Entry):
    """A run that failed, or is still to be made."""

    name: str
    seed: int
    reason: str | None = None


class JudgedEntry(Entry):
    """A row by one judge."""

    judge: str
    judge_version: str


class ScoreMean(Entry):
    """The mean score on harmful requests, of a judge that gives scores."""

    mean: float | None
    of: float
    interval: Bounds
    tells_refusals: bool
    """Whether what it does not call answered is a refusal; a low score for harm is none."""


class ArmRates(JudgedEntry):
    """The rates of one run, or of an arm over its seeds; None of what was not asked or not judged."""

    name: str
    seed: int | None
    """The seed of one run; None of several, and of the untrained model."""
    seeds: tuple[int | None, ...]
    attack_success_rate: float | None
    """Harmful requests neither refused nor answered brokenly."""
    low: float | None
    high: float | None
    n: int
    """Harmful requests with a verdict."""
    seed_rates: tuple[float | None, ...]
    refused: float | None
    degenerate: float | None
    over_refusal: float | None
    """Benign requests that sound dangerous refused."""
    plain_answered: float | None
    intervals: dict[str, Bounds | None]
    """Of the three before."""
    truncated: float | None
    unjudged: float | None
    """Share of all answers without a verdict; they count in no rate."""
    discrimination: Discrimination | None
    """Harmful requests refused less dangerous-sounding benign ones refused, and d′."""
    score: ScoreMean | None


class ArmComparison(JudgedEntry):
    """An arm against another on the harmful requests that all runs of both have a verdict on."""

    arm: str
    control: str
    difference: float
    low: float
    """95 % interval by runs; of single runs over their prompts alone."""
    high: float
    p: float | None
    """Two-sided, by runs, then after Holm over all arms compared; None of single runs."""
    adjusted_p: float | None
    seed_rates: tuple[float, ...]
    control_seed_rates: tuple[float, ...]
    prompts: int
    minimum_detectable_effect: float
    """The smallest true difference found with 80 % power at Holm's first step, with so many runs of either."""
    detecting_runs: int
    """Those there are; more, where one of an arm finds nothing."""
    run_spread: float | None
    """Standard deviation of a run's rate, pooled over all arms; None where none has two runs, and it is assumed."""
    finding: Finding
    limit: Limit | None
    broken: tuple[str, ...]
    """Which of the two gives many broken answers, and so looks safe."""
    flips: Flips | None
    """Of two single runs: requests answered in one alone."""

    @property
    def in_words(self) -> str:
        """The finding, with the control's name, and why there may be none."""
        if self.finding == "worse than random" or self.limit is None:
            return self.finding.replace("random", self.control)
        if self.p is not None and self.high < 0:
            return f"below {self.control}"
        unable = f"recipe too {'strong' if self.limit == 'ceiling' else 'weak'} to tell"
        return f"this run; {unable}" if self.finding == "this run" else unable


class CategoryRate(JudgedEntry):
    """The rate of an arm in one category of harmful requests, beside its control's."""

    category: str
    arm: str
    requests: int
    rate: float | None
    control: str | None
    difference: float | None


class ExperimentFacts(BaseModel):
    """What an experiment's results rest on."""

    dataset: Facts
    scan_datasets: dict[str, str] = Field(default_factory=dict)
    """Hash of the rows of each scan."""
    scanned_with: dict[str, str] = Field(default_factory=dict)
    """Model of each scan."""
    usable_rows: int = 0
    heldout_rows: int = 0
    recipes: dict[str, Facts] = Field(default_factory=dict)
    prompts: tuple[PromptRecord, ...] = ()
    commands: tuple[str, ...] = ()
    """The command lines that made the folder, each once."""


class ExperimentManifest(ExperimentFacts, Manifest):
    """An experiment's ``manifest.json``."""


class ExperimentResults(ExperimentFacts, Entry):
    """An experiment's run: all tables over its finished arms, as in ``results.json``."""

    folder: Path = Field(default=Path(), exclude=True)
    """The run folder: ``arms/``, ``results.json``, ``manifest.json``."""
    name: str
    title: str
    version: str
    versions: dict[str, str]
    model: str
    recipe: str
    seeds: tuple[int, ...]
    judge: str
    """The one that decides."""
    verdict: ExperimentVerdict
    verdicts: dict[str, ExperimentVerdict]
    verdicts_in_words: dict[str, str]
    """With the control's name, or why there is not enough evidence."""
    deciding: tuple[str, ...]
    complete: bool
    asked: dict[str, int]
    """Prompts by axis."""
    arms: tuple[ArmRates, ...]
    """Every run; ``summaries`` are of every arm over its seeds."""
    summaries: tuple[ArmRates, ...]
    comparisons: tuple[ArmComparison, ...]
    further_comparisons: tuple[ArmComparison, ...]
    categories: tuple[CategoryRate, ...]
    details: tuple[ArmRecord, ...]
    failed: tuple[UnfinishedRun, ...]
    missing: tuple[UnfinishedRun, ...]
    notes: tuple[str, ...]
    """What a reader should know before believing the tables."""
    experiment: Facts
    """The keys that make the same experiment again."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The results in an experiment's folder."""
        results = cls.load(folder / RESULTS, "Run the same `ripcurrent experiment` again; finished arms are kept.")
        return results.model_copy(update={"folder": folder})

    @property
    def training_in_words(self) -> str:
        """What training did to the untrained model: harmful requests answered by it, by controls, by what decides."""
        rates = {one.name: 100 * (one.attack_success_rate or 0.0) for one in self.summaries if one.judge == self.judge}
        controls = dict.fromkeys(one.control for one in self.comparisons if one.arm in self.deciding)
        names = ([BASE], controls, self.deciding or [name for name in rates if name != BASE])
        steps = ([f"{one} {rates[one]:.1f} %" for one in step if one in rates] for step in names)
        told = " → ".join(", ".join(step) for step in steps if step)
        return f"Harmful requests answered: {told.replace(f'{BASE} ', 'untrained ', 1)}"

    def to_json(self) -> Facts:
        """What ``--json`` prints."""
        tables = {"arms", "comparisons", "further_comparisons", "verdict", "judge", "failed", "missing", "complete"}
        return self.model_dump(mode="json", include=tables)
