"""The rows of an arm, chosen by its rule from a scan's scores: a finished run's, or one that is made here."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import JsonValue

from ripcurrent.data import DEMO_ROWS, Dataset, Row
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._config import ArmRule, ExperimentConfig, Mix, ScanSource
from ripcurrent.experiment._file import MAIN, Arm, missing_name
from ripcurrent.progress import Progress
from ripcurrent.scan import (
    DIRECTION_OF_RISK,
    GRADIENT_COLUMNS,
    REPRESENTATION_COLUMNS,
    RowNumbers,
    ScanOptions,
    ScanRun,
    scan,
)
from ripcurrent.select import (
    Kind,
    Selection,
    bottom,
    generator,
    match_format,
    match_length,
    match_loss,
    number_of_rows,
    of_format,
    random,
    top,
    union,
)

DEMO = "demo"
MATCHED_BY = {"length_matched": match_length, "format_matched": match_format, "loss_matched": match_loss}


class Pool(NamedTuple):
    """A scanned dataset that arms take rows from; rows that are held out are unusable in its scan."""

    run: ScanRun
    dataset: Dataset


def check_scans(config: ExperimentConfig, where: str, arms: Iterable[Arm]) -> None:
    """Refuse options of scans, and columns that the scan will not have."""
    asked = {"scan": config.scan, **{f"scans: {name}": one.options for name, one in config.scans.items()}}
    for key, options in asked.items():
        try:
            ScanOptions.resolve(None, options)
        except RipcurrentError as error:
            raise RipcurrentError(f"{where}: {key}: {error.message}", error.hint) from error
    signals = str(config.scan.get("signals"))
    unmeasured = {"gradient": REPRESENTATION_COLUMNS, "representation": GRADIENT_COLUMNS}.get(signals, ())
    columns = [name for name in DIRECTION_OF_RISK if name not in unmeasured]
    for arm in arms:
        by = (arm.rule.all_but or arm.rule).by
        # a finished scan may have more columns, and is looked at at once
        made = config.run is None and arm.scan == MAIN
        if by is not None and made and by not in columns:
            raise missing_name(f"arms: {arm.name}: the scan will have no column", by, columns, "Columns")


def with_model_of_run(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with the model that its finished scan ranked by, where it has a ``run`` and names no model."""
    if config.run is None or "model" in config.model_fields_set:
        return config
    options = ScanRun.open(config.run).options
    own = config.adapter if "adapter" in config.model_fields_set else options.adapter
    return config.model_copy(update={"model": options.model, "adapter": own})


def open_pools(
    config: ExperimentConfig, folder: Path, progress: Progress, needed: Collection[str]
) -> tuple[dict[str, Pool], tuple[int, ...]]:
    """An experiment's scans by name, of further ones those ``needed``; and the rows that no arm may train on.

    Scans that the experiment makes lie in ``folder``; a finished one is not repeated.
    """
    main = ScanSource(run=config.run) if config.run is not None else ScanSource(data=config.data, options=config.scan)
    pools: dict[str, Pool] = {}
    held: tuple[int, ...] = ()
    held_contents: set[tuple[tuple[str, str], ...]] = set()
    for name, source in {MAIN: main, **{name: config.scans[name] for name in config.scans if name in needed}}.items():
        place = Path(source.run or folder / (name or "main"))
        if source.run is None:
            progress.step(f"scan {name or 'main'}")
            data, options = _to_scan(config, source, pools.get(MAIN))
            scan(DEMO_ROWS if data == DEMO else data, place, options, progress=progress)
        run = ScanRun.open(place)
        # data beside a finished scan says where its rows are now
        moved = config.data if name == MAIN and config.run is not None and config.data != DEMO else None
        dataset = run.dataset(moved)
        if name == MAIN and config.heldout:
            held = _held_out(run, config.heldout)
            held_contents = {_content(row) for row in dataset.at(held)}
        if held:
            # the set may repeat a row, and another one may be a part of it, or hold some of its rows
            usable = run.scored.copy()
            usable[[row.index for row in dataset if _content(row) in held_contents]] = False
            # in place of the cached property, so that no rule chooses them
            vars(run)["scored"] = usable
        pools[name] = Pool(run, dataset)
    return pools, held


def _held_out(run: ScanRun, count: int) -> tuple[int, ...]:
    """``count`` usable rows at random, the same ones whatever the experiment."""
    usable = np.flatnonzero(run.scored)
    if count * 2 > len(usable):
        hint = "Give heldout: 0, or a smaller number."
        raise RipcurrentError(f"Of {len(usable)} usable rows, {count} cannot be held out.", hint)
    return tuple(sorted(generator(0, "held out").permutation(usable)[:count].tolist()))


def _content(row: Row) -> tuple[tuple[str, str], ...]:
    """What a row says, whatever its place and format: its turns, or its text."""
    return tuple((message.role, message.shown) for message in row.messages) or (("", row.text or ""),)


def _to_scan(config: ExperimentConfig, source: ScanSource, main: Pool | None) -> tuple[str, ScanOptions]:
    """The dataset and options of a scan to be made; of the experiment's own rows they are read as the main one's."""
    own: dict[str, JsonValue] = {key: getattr(config, key) for key in ("model", "adapter", "device", "dtype")}
    data = source.data or config.data or (main.run.manifest.dataset.path if main else "")
    if source.data in (None, config.data):
        if config.run is not None and main is not None:
            info = main.run.manifest.dataset
            own |= {"format": info.format, "mapping": dict(info.mapping) if info.mapping else None}
            own["spec"] = info.spec.model_dump(mode="json") if info.spec else None
            own["limit"] = main.run.options.limit
        else:
            own["format"] = config.format
            own |= {key: config.scan[key] for key in ("format", "mapping", "spec", "limit") if key in config.scan}
    if "model" in source.options:
        # the experiment's adapter is of its own model
        own["adapter"] = None
    unchecked: dict[str, JsonValue] = {} if config.anchor_check else {"anchor_check": False}
    return data, ScanOptions.resolve(None, own | source.options | unchecked)


def choose_rows(arm: Arm, seed: int, scans: Mapping[str, ScanRun], arms: Mapping[str, Arm]) -> Selection:
    """The rows that an arm trains on with a seed, from the scans by name; ``arms`` has those that it may match."""
    run = scans[arm.scan]
    try:
        if arm.of is None:
            chosen = _chosen(arm.rule, number_of_rows(arm.size or 1, int(run.scored.sum())), run, seed)
        else:
            chosen = MATCHED_BY[arm.rule.kind](run, choose_rows(arms[arm.of], seed, scans, arms), seed)
    except RipcurrentError as error:
        raise RipcurrentError(f"Arm {arm.name}: {error.message}", error.hint, code=error.code) from error
    return replace(chosen, name=arm.name, control_of=arm.of, seed=seed)


def _chosen(rule: ArmRule, k: int, run: ScanRun, seed: int) -> Selection:
    usable = np.flatnonzero(run.scored)
    if rule.all_but is not None:
        left_out = _chosen(rule.all_but, number_of_rows(rule.all_but.size or 1, len(usable)), run, seed)
        rows = np.setdiff1d(usable, left_out.indices)
        if not len(rows):
            raise RipcurrentError("no usable row is left.", "Leave fewer out.")
        return _selection("all-but", f"all usable rows but these: {left_out.rule}", rows)
    if rule.draw is not None:
        return of_format(run, rule.draw, k, seed)
    if rule.mix is not None:
        return _mix(run, rule.mix, rule.by, k, seed)
    if rule.select == "all":
        return _selection("all", f"all {len(usable)} usable rows", usable)
    if rule.select == "random":
        return random(run, k, seed)
    if rule.select == "union":
        return _union(run, k)
    end = top if rule.select == "top" else bottom
    if rule.jitter is None:
        return end(run, k, rule.by)
    wide = end(run, number_of_rows(rule.jitter, len(usable)), rule.by)
    if len(wide.indices) <= k:
        message = f"with jitter {rule.jitter} its {k} rows would be drawn from {len(wide.indices)}."
        raise RipcurrentError(message, "Give twice as many or more, so that seeds differ in rows.")
    drawn = np.sort(generator(seed, "jitter").permutation(len(wide.indices))[:k]).tolist()
    indices, scores = (tuple(values[place] for place in drawn) for values in (wide.indices, wide.scores))
    return replace(wide, rule=f"{k} of {wide.rule}, at random, seed {seed}", indices=indices, scores=scores)


def _selection(kind: Kind, rule: str, rows: RowNumbers) -> Selection:
    """Rows in the order of the input."""
    return Selection(kind, kind, rule, None, tuple(np.sort(rows).tolist()), ())


def _union(run: ScanRun, k: int) -> Selection:
    """The smallest union of equally many nearest rows of every harmful anchor that has ``k`` rows, cut to ``k``."""
    enough = bisect_left(range(1, k), k, key=lambda nearest: len(union(run, nearest).indices)) + 1
    found = union(run, enough)
    rule = f"{found.rule}; the first {k} of these {len(found.indices)}"
    shortfall = max(0, k - len(found.indices))
    return replace(found, rule=rule, indices=found.indices[:k], scores=found.scores[:k], shortfall=shortfall)


def _mix(run: ScanRun, mix: Mix, by: str | None, k: int, seed: int) -> Selection:
    """A percent of ``k`` rows riskiest, or at random of a format; the rest at random of all others."""
    (percent,), usable = mix.percent, np.flatnonzero(run.scored)
    wanted = round(k * percent / 100)
    # the whole order is drawn, so that a larger share holds the rows of a smaller one
    draw = generator(seed, "mix" if mix.of == "top" else f"share {mix.of}").permutation
    if mix.of == "top":
        what, inside = "riskiest", np.array(top(run, wanted, by).indices if wanted else (), dtype=np.int64)
        others = np.setdiff1d(usable, inside)
    else:
        what, has = mix.of, run.flags(f"is_{mix.of}")[usable]
        inside, others = draw(usable[has])[:wanted], usable[~has]
    rows = np.concatenate([inside, draw(others)[: k - wanted]])
    if len(rows) == 0:
        raise RipcurrentError(f"no usable row is there to mix {what} rows from.", "Use another format.")
    rule = f"{len(inside)} {what} rows and {len(rows) - len(inside)} others at random, seed {seed}"
    share = f"{len(inside) / len(rows):.0%} of them {what}"
    note = f"only {len(rows)} rows, {share}, instead of {k} with {percent:g} %"
    return replace(_selection("mix", rule, rows), shortfall=k - len(rows), notes=(note,) if len(rows) < k else ())
