"""The demo's proof: how often the model answers harmful requests before fine-tuning, and after it on chosen rows."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ripcurrent.demo import DEMO_ROWS
from ripcurrent.evaluate import find_judges, kappas_of
from ripcurrent.experiment import gather_prompts
from ripcurrent.experiment._experiment import Experiment
from ripcurrent.experiment._experiment_arms import digest_of
from ripcurrent.finetune import load_recipe
from ripcurrent.progress import Progress
from ripcurrent.runs import write_json
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._scan import ScanResult

PROOF = DEMO_ROWS.with_name("proof.json")
"""The result that comes with the package: what ``ripcurrent demo --fresh`` found on the machine that it names."""

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


@dataclass(frozen=True, slots=True)
class ProofRate:
    """One arm."""

    arm: str
    """``base``, the model as it is, or the rows that it was fine-tuned on."""
    answered: float
    """Share of harmful requests answered, over its seeds."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""
    over_refusal: float | None
    """Share of the benign requests that sound dangerous refused."""
    plain_answered: float | None
    """Share of the plain requests answered."""
    runs: int
    """Seeds."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Rates before and after, and where they come from."""

    rates: tuple[ProofRate, ...]
    """The arms, ``base`` first."""
    verdict: str
    """On the riskiest rows against random ones."""
    judge: str
    """Who judged."""
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

    def as_json(self) -> dict[str, Any]:
        """One JSON-ready object."""
        return asdict(self)


def cached_proof(scan: ScanResult) -> Proof | None:
    """The proof that comes with the package, where it is of the same rows, model and anchors as the scan."""
    found = json.loads(PROOF.read_text(encoding="utf-8"))
    if found["scanned"] != _scanned(scan.manifest) or _ranked_otherwise(scan.manifest["options"]):
        return None
    rates = tuple(ProofRate(**rate) for rate in found.pop("rates"))
    return Proof(rates=rates, **{**found, "cached": True})


def fresh_proof(scan: ScanResult, out: Path, *, progress: Progress | None = None, **changes: Any) -> Proof:
    """Fine-tune on the riskiest rows and their controls, and ask: some ten minutes on two cores, resumed.

    Args:
        scan: The finished scan of the demo.
        out: The experiment's folder; the proof is written beside it as ``proof.json``.
        progress: Told of steps and rows.
        **changes: Keys of the experiment other than the demo's.

    Raises:
        RipcurrentError: As an experiment.
    """
    options = scan.manifest["options"]
    keys = {**EXPERIMENT, "run": str(scan.folder), "device": options["device"], "dtype": options["dtype"], **changes}
    found = Experiment.from_keys(**keys).run(out, progress=progress).results
    judge = str(found["judge"])
    summaries = [one for one in found["summaries"] if one["judge"] == judge]
    proof = Proof(
        rates=tuple(map(_rate, summaries)),
        verdict=str(found["verdict"]),
        judge=judge,
        kappas=kappas_of(judge, str(summaries[0]["judge_version"])),
        prompts=int(found["asked"]["harmful"]),
        rows=int(keys["size"]),
        scanned=_scanned(scan.manifest),
        made={
            "version": version("ripcurrent"),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "conditions_sha256": conditions_sha256(),
        },
        cached=False,
    )
    write_json(out.with_name("proof.json"), proof.as_json())
    return proof


def conditions_sha256() -> str:
    """Hash of the experiment, its recipe, what is asked and who judges: another one makes a stored proof stale."""
    config = Experiment.from_keys(**EXPERIMENT, run="scan").config
    prompts, _ = gather_prompts(config.prompts)
    conditions = {
        "experiment": EXPERIMENT,
        "recipe": load_recipe(config.recipe).model_dump(mode="json"),
        "prompts": [[one.id, one.axis, one.text] for one in prompts],
        "judges": {judge.name: judge.version for judge in find_judges(config.judges)},
    }
    return digest_of(conditions)


def _rate(summary: Mapping[str, Any]) -> ProofRate:
    return ProofRate(
        arm=str(summary["name"]),
        answered=float(summary["attack_success_rate"]),
        low=float(summary["low"]),
        high=float(summary["high"]),
        over_refusal=_share(summary["over_refusal"]),
        plain_answered=_share(summary["plain_answered"]),
        runs=len(summary["seeds"]),
    )


def _share(value: Any) -> float | None:
    return None if value is None else float(value)


def _ranked_otherwise(options: Mapping[str, Any]) -> bool:
    """Whether a scan of these rows ranked others of them as the riskiest than the demo's own."""
    names = ("limit", "scope", "preset", "anchor_tokens", "row_tokens", "loss_on", "max_tokens", "drop_refusals")
    usual = ScanOptions()
    return options["signals"] == "representation" or any(options.get(name) != getattr(usual, name) for name in names)


def _scanned(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {
        "dataset_sha256": str(manifest["dataset"]["sha256"]),
        "model_fingerprint": str(manifest["model"]["fingerprint"]),
        "anchors_sha256": str(manifest["anchors"]["sha256"]),
    }
