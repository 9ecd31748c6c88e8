"""The demo: the package's own rows scanned and selected, and its proof: what the model answers trained on them."""

import hashlib
import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import ripcurrent as rc
from ripcurrent.data import DEMO_ROWS
from ripcurrent.evaluate import find_judges, kappas_of
from ripcurrent.experiment import gather_prompts
from ripcurrent.finetune import load_recipe
from ripcurrent.progress import Progress
from ripcurrent.report import REPORT, build_report
from ripcurrent.runs import write_json
from ripcurrent.scan import ScanOptions, ScanRun

PROOF = Path(__file__).with_name("proof.json")
"""The result that comes with the package: what ``ripcurrent demo --fresh`` measured on the machine that it names."""

EXPERIMENT: dict[str, Any] = {
    "name": "demo",
    "title": "Do the riskiest rows of the demo wear refusals away more than random ones, and than equally long ones?",
    "recipe": "embedded",
    "size": 75,
    "seeds": 3,
    "arms": {
        **{"random": {"select": "random"}, "riskiest": {"select": "top"}},
        "same_lengths": {"length_matched": "riskiest"},
    },
    "verdict_on": ["riskiest"],
    "prompts": [
        {"source": "builtin:harmful"},
        *({"source": f"builtin:{axis}", "limit": limit} for axis, limit in (("sounds_dangerous", 40), ("plain", 30))),
    ],
    "heldout": 0,
}
"""Everything of the experiment but the scan, and who judges: as in the stored proof."""
JUDGED = ("wording", "prefix")

RANKED_BY = ("limit", "scope", "anchor_tokens", "row_tokens", "trainer", "max_tokens", "drop_refusals")
"""Options of a scan that change which rows are the riskiest."""


class Shown(BaseModel):
    """What the demo shows."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class ProofRate(Shown):
    """One arm over its seeds: ``base``, the model as it is, or the rows that it was fine-tuned on."""

    arm: str
    answered: float
    """Share of harmful requests answered, with its 95 % interval."""
    low: float
    high: float
    over_refusal: float | None
    """Share of the benign requests that sound dangerous refused."""
    plain_answered: float | None
    runs: int


class Proof(Shown):
    """Rates of ``prompts`` harmful requests before and after training on ``rows`` rows, and where they come from."""

    rates: tuple[ProofRate, ...]
    verdict: str
    judge: str
    kappas: list[float] | None
    """Smallest and largest κ of that judge with people; None where it was not measured."""
    prompts: int
    rows: int
    scanned: dict[str, str]
    """Hashes of what was scanned: dataset, model, anchors."""
    made: dict[str, str]
    """Version, date, machine, and hash of the conditions."""
    cached: bool
    """Whether it comes with the package rather than from this run."""


class Demo(Shown, arbitrary_types_allowed=True):
    """A finished demo; its dump is what ``demo --json`` prints."""

    scan: ScanRun = Field(exclude=True)
    run: Path
    scores: Path
    report: Path
    status_counts: dict[str, int]
    ranking: str
    selections: tuple[Path, ...]
    """The riskiest rows as written."""
    proof: Proof | None
    """None where the proof at hand is not of these rows and this model."""


def run_demo(
    out: str | Path = Path("runs/demo"), *, fresh: bool = False, progress: Progress | None = None, **changes: Any
) -> Demo:
    """Scan the demo rows on the embedded model, or go on with a demo in ``out``; select the riskiest.

    With ``fresh`` it fine-tunes and asks here, in ``out``'s folder ``proof``, in place of the proof that comes with the
    package. ``changes`` are options of the scan by name.

    Raises:
        RipcurrentError: The embedded model is not installed, or ``out`` holds something else.
    """
    run = rc.scan(DEMO_ROWS, out, progress=progress, **changes)
    if not (run.folder / REPORT).exists():
        build_report(run)
    records = rc.select(run, top="5%", drop=True)
    return Demo(
        scan=run,
        run=run.folder,
        scores=run.scores_path,
        report=run.folder / REPORT,
        status_counts=run.status_counts(),
        ranking=run.default_ranking,
        selections=tuple(record.path for record in records),
        proof=fresh_proof(run, run.folder / "proof", progress=progress) if fresh else cached_proof(run),
    )


def cached_proof(run: ScanRun) -> Proof | None:
    """The proof that comes with the package, where the scan ranks the same rows by the same model and anchors."""
    proof = Proof.model_validate_json(PROOF.read_text(encoding="utf-8"))
    usual = ScanOptions()
    ranked_otherwise = any(getattr(run.options, name) != getattr(usual, name) for name in RANKED_BY)
    if proof.scanned != _scanned(run) or run.options.signals == "representation" or ranked_otherwise:
        return None
    kappas = kappas_of(proof.judge, find_judges([proof.judge])[0].version)
    return proof.model_copy(update={"cached": True, "kappas": kappas})


def fresh_proof(run: ScanRun, out: Path, *, progress: Progress | None = None, **changes: Any) -> Proof:
    """Fine-tune on the riskiest rows and their controls in ``out``, and ask: some half an hour on two cores, resumed.

    The proof is written beside ``out`` as ``proof.json``. ``changes`` are keys of the experiment other than the demo's.
    """
    keys = {
        **EXPERIMENT,
        "judges": JUDGED,
        "run": str(run.folder),
        "device": run.options.device,
        "dtype": run.options.dtype,
        **changes,
    }
    results = rc.Experiment.from_keys(**keys).run(out, progress=progress)
    judge = results.judge
    summaries = [one for one in results.summaries if one.judge == judge]
    proof = Proof(
        rates=tuple(
            ProofRate(**dict(one), arm=one.name, answered=one.attack_success_rate or 0.0, runs=len(one.seeds))
            for one in summaries
        ),
        verdict=results.verdict,
        judge=judge,
        kappas=kappas_of(judge, summaries[0].judge_version),
        prompts=results.asked["harmful"],
        rows=keys["size"],
        scanned=_scanned(run),
        made={
            "version": version("ripcurrent"),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "conditions_sha256": conditions_sha256(),
        },
        cached=False,
    )
    write_json(out.with_name("proof.json"), proof.model_dump(mode="json"))
    return proof


def conditions_sha256() -> str:
    """Hash of the experiment, its recipe, what is asked and who judges: another one makes a stored proof stale."""
    config = rc.Experiment.from_keys(**EXPERIMENT, judges=JUDGED, run="scan").config
    prompts, _ = gather_prompts(config.prompts)
    conditions = {
        "experiment": EXPERIMENT,
        "recipe": load_recipe(config.recipe).model_dump(mode="json"),
        "prompts": [[one.id, one.axis, one.text] for one in prompts],
        "judges": {judge.name: judge.version for judge in find_judges(config.judges)},
    }
    return hashlib.sha256(json.dumps(conditions).encode()).hexdigest()


def _scanned(run: ScanRun) -> dict[str, str]:
    return {
        "dataset_sha256": run.manifest.dataset.sha256,
        "model_fingerprint": run.manifest.model.fingerprint,
        "anchors_sha256": run.manifest.anchors.sha256,
    }
