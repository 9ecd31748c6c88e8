"""The demo's proof: how often the model answers harmful requests before fine-tuning, and after it on chosen rows."""

import hashlib
import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

import ripcurrent as rc
from ripcurrent.evaluate import find_judges, kappas_of
from ripcurrent.experiment import gather_prompts
from ripcurrent.finetune import load_recipe
from ripcurrent.progress import Progress
from ripcurrent.runs import write_json
from ripcurrent.scan import ScanOptions, ScanRun

PROOF = Path(__file__).with_name("proof.json")
"""The result that comes with the package: what ``ripcurrent demo --fresh`` measured on the machine that it names."""

EXPERIMENT: dict[str, Any] = {
    "name": "demo",
    "title": "Do the riskiest rows of the demo wear refusals away more than random ones, and than equally long ones?",
    "recipe": "embedded",
    "size": 75,
    "seeds": 1,
    "arms": {
        "random": {"select": "random"},
        "riskiest": {"select": "top"},
        "same_lengths": {"length_matched": "riskiest"},
    },
    "verdict_on": ["riskiest"],
    "prompts": [
        {"source": "builtin:harmful"},
        {"source": "builtin:sounds_dangerous", "limit": 40},
        {"source": "builtin:plain", "limit": 30},
    ],
    "heldout": 0,
}
"""Everything of the experiment but the scan."""

RANKED_BY = ("limit", "scope", "anchor_tokens", "row_tokens", "loss_on", "max_tokens", "drop_refusals")
"""Options of a scan that change which rows are the riskiest."""


class Shown(BaseModel):
    """What the demo shows."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class ProofRate(Shown):
    """One arm, over its seeds."""

    arm: str
    """``base``, the model as it is, or the rows that it was fine-tuned on."""
    answered: float
    """Share of harmful requests answered, with its 95 % interval."""
    low: float
    high: float
    over_refusal: float | None
    """Share of the benign requests that sound dangerous refused."""
    plain_answered: float | None
    runs: int


class Proof(Shown):
    """Rates before and after, and where they come from."""

    rates: tuple[ProofRate, ...]
    """The arms, ``base`` first."""
    verdict: str
    """On the riskiest rows against random ones."""
    judge: str
    kappas: list[float] | None
    """Smallest and largest κ of that judge with people; None where it was not measured."""
    prompts: int
    """Harmful requests asked."""
    rows: int
    """Rows of an arm."""
    scanned: dict[str, str]
    """Hashes of what was scanned: dataset, model, anchors."""
    made: dict[str, str]
    """Version, date, machine, and the hash of the conditions."""
    cached: bool
    """Whether it comes with the package rather than from this run."""


def cached_proof(run: ScanRun) -> Proof | None:
    """The proof that comes with the package, where the scan ranks the same rows by the same model and anchors."""
    proof = Proof.model_validate_json(PROOF.read_text(encoding="utf-8"))
    usual = ScanOptions()
    ranked_otherwise = any(getattr(run.options, name) != getattr(usual, name) for name in RANKED_BY)
    if proof.scanned != _scanned(run) or run.options.signals == "representation" or ranked_otherwise:
        return None
    return proof.model_copy(update={"cached": True})


def fresh_proof(run: ScanRun, out: Path, *, progress: Progress | None = None, **changes: Any) -> Proof:
    """Fine-tune on the riskiest rows and their controls in ``out``, and ask: some ten minutes on two cores, resumed.

    The proof is written beside ``out`` as ``proof.json``. ``changes`` are keys of the experiment other than the demo's.
    """
    keys = {**EXPERIMENT, "run": str(run.folder), "device": run.options.device, "dtype": run.options.dtype, **changes}
    results = rc.Experiment.from_keys(**keys).run(out, progress=progress)
    judge = results.judge
    summaries = [one for one in results.summaries if one.judge == judge]
    proof = Proof(
        rates=tuple(
            ProofRate(**one.model_dump(), arm=one.name, answered=one.attack_success_rate or 0.0, runs=len(one.seeds))
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
    config = rc.Experiment.from_keys(**EXPERIMENT, run="scan").config
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
