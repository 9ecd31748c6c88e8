"""Calibrate on one's own data: a small ladder of arms is trained on it, and then fitted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ripcurrent.anchors import load_anchors
from ripcurrent.data import DEMO_ROWS, read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import find_judge, load_prompts
from ripcurrent.experiment import DEMO, KEYS, ExperimentConfig, expand_arms, parse_experiment, run_experiment
from ripcurrent.finetune import load_recipe
from ripcurrent.forecast._calibrate_runs import _refuse_other_file, calibrate
from ripcurrent.forecast._calibration import Calibration, JudgedBy, NamedHash, find_calibration
from ripcurrent.forecast._calibration_errors import FEWEST_ARMS
from ripcurrent.forecast._conditions import Conditions, harmful_sha256, recipe_sha256
from ripcurrent.forecast._join_calibration import join_calibration, refuse_other_conditions
from ripcurrent.forecast._ladder import read_ladder
from ripcurrent.models import describe
from ripcurrent.progress import Progress
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.scan._scored_with import ScoredWith

SIZES = (20, 50, 100)
"""Rows of the arms, unless others are named."""
ARMS: Mapping[str, Any] = {
    "random": "random",
    "top": "top",
    "bottom": "bottom",
    "upper": {"mix": {"of": "top", "percent": 50}},
}
"""Arms of the first dataset, each of every size."""
FURTHER = ("random", "top", "bottom")
"""Arms of each further dataset, of the largest size."""
PROMPTS: tuple[Mapping[str, Any], ...] = (
    {"source": "builtin:harmful"},
    {"source": "builtin:sounds_dangerous", "limit": 60},
    {"source": "builtin:plain", "limit": 30},
)
"""What the arms are asked: the fit is to the harmful requests, so all of these."""
JUDGES = ("prefix", "keyword")
"""Who judges: an experiment's, unless its file names others."""
WHERE = "the ladder"
"""What errors call the source of its keys."""


def calibrate_data(
    data: str | Path | Sequence[str | Path],
    work: str | Path,
    out: str | Path,
    *,
    recipe: str | Path,
    model: str | Path = "embedded",
    adapter: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    sizes: Sequence[int] = SIZES,
    seeds: int = 1,
    scan: Mapping[str, Any] | None = None,
    experiments: Sequence[str | Path] = (),
    judge: str = "prefix",
    joined: str | Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    **fit: Any,
) -> Calibration:
    """Train a ladder of arms on datasets, ask and judge each, fit what they answered, and keep the fit.

    Arms of the first dataset: random, riskiest, most protective, and half riskiest half random rows, of every size. Of
    each further one: the first three, of the largest size. The same call goes on where it was stopped, and trains
    nothing twice.

    Args:
        data: The dataset, or several: the first is the one that forecasts compare with.
        work: Run folder of the ladder, an experiment of arms.
        out: The calibration's file.
        recipe: ``paper``, ``lora``, ``embedded``, or a YAML file.
        model: Hub id, folder, ``.gguf`` file, or ``embedded``.
        adapter: PEFT adapter that belongs to the model.
        device: ``cuda``, ``mps``, ``cpu``; chosen when left out.
        dtype: Type of the products; chosen when left out.
        sizes: Rows of an arm.
        seeds: Runs of every arm.
        scan: Options of every dataset's scan, by name.
        experiments: Finished experiments that are fitted with the ladder, which is then asked what the first one was.
        judge: Whose verdicts count: ``prefix`` or ``keyword``.
        joined: A calibration whose runs are fitted with these; it must be of the requests that the ladder is asked.
        command: The command line that asks for it, for the page.
        progress: Told of steps and rows.
        **fit: Further options of `calibrate`: ``scans``, ``columns``, ``compare``.

    Raises:
        RipcurrentError: Anything the user can mend, such as fewer rows than an arm needs; what can be known before
            training is said before.
    """
    _refuse_other_file(Path(out))
    if judge not in JUDGES:
        raise RipcurrentError(
            f"The judge {judge} does not judge a ladder: {' and '.join(JUDGES)} do.",
            "For another one, run a file such as the ready `ladder` with it, and fit that folder.",
        )
    sources = [str(one) for one in ([data] if isinstance(data, str | Path) else data)]
    if not sources or not sizes:
        raise RipcurrentError("A ladder takes a dataset and a size.", "Name one of each at least.")
    known = ScanOptions.model_fields
    # as in a file, where only what differs is written: a folder is gone on with however its options were given
    options = {key: value for key, value in (scan or {}).items() if key not in known or value != known[key].default}
    keys = {
        "name": Path(work).name,
        "title": "How does the answered share follow the mean score and the number of the rows that were trained on?",
        "model": str(model),
        "adapter": None if adapter is None else str(adapter),
        "device": device,
        "dtype": dtype,
        "recipe": str(recipe),
        "seeds": seeds,
        "prompts": [dict(one) for one in PROMPTS],
        "judges": JUDGES,
        # the loss on rows that no arm trained on is no part of a fit, and a small set has none to spare
        "heldout": 0,
        **_arms(sources, sizes, options),
    }
    finished = None
    if experiments:
        finished = read_ladder([Path(one) for one in experiments], judge=judge)
        if joined is not None:
            # only whether they can be: they are joined when the ladder is trained
            join_calibration(finished, find_calibration(joined))
        stored = json.loads((Path(experiments[0]) / KEYS).read_text(encoding="utf-8"))
        keys |= {key: stored[key] for key in ("prompts", "system", "max_new_tokens") if key in stored}
    config = parse_experiment(keys, where=WHERE)
    if finished is not None:
        _refuse_other_training(config, options, finished.conditions, experiments[0])
        _refuse_other_scores(config, options, finished.scored_with, finished.default_column, str(experiments[0]))
    elif joined is not None:
        _refuse_other_ladder(config, options, judge, joined)
        made = find_calibration(joined)
        _refuse_other_scores(config, options, made.scored_with, made.columns[0], f"the calibration {joined}")
    arms = len(expand_arms(config))
    if arms < FEWEST_ARMS and not experiments and joined is None:
        raise RipcurrentError(
            f"One size of one dataset makes {arms} arms, and a fit takes {FEWEST_ARMS}.", "Give a second size."
        )
    for one in sources:
        _refuse_too_few_rows(one, max(sizes), options)
    try:
        run_experiment(config, work, command=command, where=WHERE, progress=progress)
    except RipcurrentError as error:
        # there, --out is the run folder
        raise RipcurrentError(error.message, error.hint.replace("--out", "--work"), code=error.code) from error
    return calibrate([*experiments, work], out, judge=judge, joined=joined, progress=progress, **fit)


def _refuse_other_training(
    config: ExperimentConfig, scan: Mapping[str, Any], finished: Conditions, folder: str | Path
) -> None:
    """Refuse another recipe, or rows cut otherwise, than a finished experiment's, before anything is trained."""
    recipe, finetune = _training(config, scan)
    what = "recipe" if recipe_sha256(recipe) != recipe_sha256(finished.recipe) else None
    what = what or next((key for key in finetune if finetune[key] != finished.finetune.get(key)), None)
    if what:
        raise RipcurrentError(
            f"The ladder cannot be fitted with {folder}, which was trained with another {what}.",
            "Give the one that it was trained with, or leave that experiment out.",
        )


def _refuse_other_scores(
    config: ExperimentConfig, scan: Mapping[str, Any], earlier: ScoredWith, column: str, what: str
) -> None:
    """Refuse another model, anchors or options of the scan than the ladder is to be fitted with, before training."""
    own = {"model": config.model, "adapter": config.adapter, "device": config.device, "dtype": config.dtype}
    options = ScanOptions.resolve(None, {**own, **scan})
    anchor_set = load_anchors(options.anchors)
    about = describe(load_scan_model(options)).model_dump()
    planned = ScoredWith.of(
        {
            "model": about,
            "anchors": {"name": anchor_set.name, "sha256": anchor_set.sha256},
            "options": options.model_dump(),
        }
    )
    reason = earlier.difference(planned, [column])
    if reason is not None:
        raise RipcurrentError(
            f"The ladder cannot be fitted with {what}: {reason}.",
            "Give the model, adapter, anchors and options that it was made with.",
        )


def _refuse_other_ladder(config: ExperimentConfig, scan: Mapping[str, Any], judge: str, joined: str | Path) -> None:
    """Refuse a calibration of other requests, recipe or judge than the ladder's, before anything is trained."""
    made = find_calibration(joined)
    asked = [one.text for one in load_prompts(PROMPTS[0]["source"]).prompts]
    if harmful_sha256(asked) != made.prompts.sha256:
        raise RipcurrentError(
            f"The calibration {joined} is of other harmful requests ({made.prompts.name}, {made.prompts.count}) than "
            "the ladder is asked.",
            "Give a finished experiment that asked them as RUN: the ladder is then asked the same.",
        )
    recipe, finetune = _training(config, scan)
    planned = Conditions(
        recipe=recipe,
        finetune=finetune,
        prompts=NamedHash(name="builtin", sha256=harmful_sha256(asked), count=len(asked)),
        system=config.system,
        max_new_tokens=config.max_new_tokens,
        judge=JudgedBy(name=judge, version=find_judge(judge).version),
    )
    refuse_other_conditions(planned, made)


def _training(config: ExperimentConfig, scan: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe of a ladder's arms, and how their rows are cut."""
    known = ScanOptions.model_fields
    cut = {key: scan.get(key, known[key].default) for key in ("max_tokens", "loss_on")}
    return load_recipe(config.recipe).model_dump(mode="json"), cut


def _arms(sources: Sequence[str], sizes: Sequence[int], scan: dict[str, Any]) -> dict[str, Any]:
    """The keys of an experiment that say what is scanned, and what the arms train on."""
    further = {f"source{number}": data for number, data in enumerate(sources[1:], start=2)}
    arms, most = dict(ARMS), max(sizes)
    for name in further:
        # the size is in the name, so that a ladder may grow by larger ones
        arms |= {f"{name}_{rule}-{most}": {"select": rule, "scan": name, "size": most} for rule in FURTHER}
    return {
        "data": sources[0],
        "scan": scan,
        "scans": {name: {"data": data, "options": scan} for name, data in further.items()},
        "sizes": sorted(set(sizes)),
        "arms": arms,
    }


def _refuse_too_few_rows(data: str, largest: int, scan: Mapping[str, Any]) -> None:
    """Refuse sets that would be the whole dataset, whatever chose them."""
    how = {key: scan[key] for key in ("format", "mapping", "limit") if key in scan}
    rows, _ = read_rows(DEMO_ROWS if data == DEMO else data, **how).count_and_hash()
    if rows <= largest:
        raise RipcurrentError(
            f"{data} has {rows} rows: a set of {largest} leaves nothing to choose.",
            "Name smaller sizes with --sizes; up to half of the rows, the riskiest and the most protective stay apart.",
        )
