"""The mechanism table: does similarity in states mean similarity in gradients? Rank correlations, pool by pool."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.experiment._instruments import MechanismConfig, Pool, parse_mechanism
from ripcurrent.experiment._rank_intervals import CONFIDENCE, DRAWS, FloatArray, rank_correlations
from ripcurrent.experiment._scanned import open_scores, provenance_of
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import RunFolder, write_json, written_whole
from ripcurrent.scan._columns import GRADIENT_COLUMNS, REPRESENTATION_COLUMNS
from ripcurrent.select._table import ScoredRows

LENGTH = "response_tokens"
FEWEST_ROWS = 10
"""A pool of fewer complete rows is an error: an interval over them would say nothing."""
TABLE = "correlations.parquet"


def run(config: dict[str, Any], folder: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Correlate every representation column with every gradient column of each pool, raw and given response length.

    Spearman's rank correlation with percentile bootstrap intervals over rows, and the same between what response
    length leaves of both ranks. A finished scan and a finished pool are not repeated, and the folder may be given
    further pools; seed and version may not change.

    Args:
        config: Keys of a file of ``kind: mechanism``.
        folder: The run folder: ``results.json``, ``correlations.parquet``, and ``scans/POOL`` of pools of ``data``.
        progress: Told of steps and rows.

    Returns:
        The tables as JSON, with ``lines`` for people.

    Raises:
        RipcurrentError: Anything the user can mend: a key, a run that is no finished scan or has one signal only;
            with exit code 2 a pool with too few rows that have both.
    """
    chosen = parse_mechanism(config, where=f"experiment {config.get('name', 'mechanism')}")
    told = progress or SilentProgress()
    identity = {"command": "mechanism", "seed": chosen.seed, "version": version("ripcurrent")}
    with RunFolder(folder, identity) as outer:
        pools = [_pool(chosen, pool, folder, told) for pool in chosen.pools]
        results: dict[str, Any] = {
            "kind": "mechanism",
            "name": chosen.name,
            "title": chosen.title,
            "version": identity["version"],
            "experiment": dict(config),
            "pools": pools,
            "agreement": _agreement(pools),
            "settings": {"seed": chosen.seed, "draws": DRAWS, "confidence": CONFIDENCE},
        }
        results["lines"] = list(_lines(results))
        _write_table(folder / TABLE, pools)
        write_json(folder / "results.json", results)
        outer.write_manifest(
            {
                **identity,
                "pools": [{"name": pool["name"], "scan": pool["scan"]} for pool in pools],
                "versions": {name: version(name) for name in ("numpy", "scipy", "pyarrow")},
            }
        )
    return results


def _pool(config: MechanismConfig, pool: Pool, folder: Path, told: Progress) -> dict[str, Any]:
    """One pool's tables: computed, or read where the same scores were correlated before."""
    run_folder, table, manifest = open_scores(config.resolved(pool), folder / "scans" / pool.name, told)
    sha256 = hashlib.sha256((run_folder / "scores.parquet").read_bytes()).hexdigest()
    path = folder / "pools" / f"{pool.name}.json"
    scan = {**provenance_of(run_folder, table, manifest), "scores_sha256": sha256}
    stored = _stored(path)
    if stored.get("scan", {}).get("scores_sha256") == sha256:
        return {**stored, "scan": scan}
    told.step(f"correlating {pool.name}")
    found = {"name": pool.name, "scan": scan, **_correlations(pool.name, ScoredRows(table), config.seed)}
    write_json(path, found)
    return found


def _stored(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        # absent, or cut short: it is made again
        return {}


def _correlations(name: str, scored: ScoredRows, seed: int) -> dict[str, Any]:
    representation = _measured(name, scored, REPRESENTATION_COLUMNS, "representation")
    gradient = _measured(name, scored, GRADIENT_COLUMNS, "gradient")
    length = np.where(scored.ok, scored.numbers(LENGTH), np.nan)
    complete = np.isfinite(np.stack([*representation.values(), *gradient.values(), length])).all(axis=0)
    rows = int(complete.sum())
    if rows < FEWEST_ROWS:
        raise RipcurrentError(
            f"Pool {name} has {rows} rows with all scores: too few to correlate.",
            f"Give a pool of {FEWEST_ROWS} usable rows or more.",
            code=ExitCode.NOT_MEASURED,
        )
    columns = {key: values[complete] for key, values in {**representation, **gradient}.items()}
    tokens = length[complete]
    pairs = rank_correlations(
        {key: columns[key] for key in representation}, {key: columns[key] for key in gradient}, tokens, seed=seed
    )
    with_length = rank_correlations(columns, {LENGTH: tokens}, tokens, seed=seed)
    return {
        "rows": rows,
        "left_out": len(scored.rows) - rows,
        "correlations": [
            {
                "representation": one.left,
                "gradient": one.right,
                "same_direction_of_risk": _same_direction(scored, one.left, one.right),
                **_without(one.as_json(), "left", "right"),
            }
            for one in pairs
        ],
        "length": [
            {"column": one.left, **{key: one.as_json()[key] for key in ("rows", "spearman", "low", "high")}}
            for one in with_length
        ],
    }


def _measured(name: str, scored: ScoredRows, wanted: Sequence[str], signal: str) -> dict[str, FloatArray]:
    """The columns of one signal, NaN where a row is not usable.

    Raises:
        RipcurrentError: The scan did not measure that signal.
    """
    usable = {
        column: np.where(scored.ok, scored.numbers(column), np.nan)
        for column in wanted
        if column in scored.ranking_columns
    }
    found = {column: values for column, values in usable.items() if np.isfinite(values).any()}
    if not found:
        raise RipcurrentError(
            f"Pool {name}: its scan has no {signal} scores, and both signals are needed.",
            "Scan it again without --signals, or with --signals all.",
        )
    return found


def _same_direction(scored: ScoredRows, first: str, second: str) -> bool | None:
    """Whether larger values of both mean risk, or of neither; None where one of them ranks no risk."""
    directions = {scored.direction(first), scored.direction(second)}
    return None if "none" in directions else len(directions) == 1


def _agreement(pools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each pair of columns, what holds over the pools given length: the range, and whether the sign is clear."""
    by_pair: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for pool in pools:
        for one in pool["correlations"]:
            by_pair.setdefault((one["representation"], one["gradient"]), []).append(one)
    found = []
    for (representation, gradient), ones in by_pair.items():
        values = [one["given_length"] for one in ones if one["given_length"] is not None]
        bounds = [(one["given_length_low"], one["given_length_high"]) for one in ones]
        sign, everywhere = "unclear", len(ones) == len(pools)
        if everywhere and all(low is not None and low > 0 for low, _ in bounds):
            sign = "positive"
        elif everywhere and all(high is not None and high < 0 for _, high in bounds):
            sign = "negative"
        found.append(
            {
                "representation": representation,
                "gradient": gradient,
                "pools": len(ones),
                "lowest": min(values, default=None),
                "highest": max(values, default=None),
                "sign": sign,
            }
        )
    return found


def _write_table(path: Path, pools: Sequence[Mapping[str, Any]]) -> None:
    rows = [{"pool": pool["name"], **one} for pool in pools for one in pool["correlations"]]
    with written_whole(path) as part:
        pq.write_table(pa.Table.from_pylist(rows), part)


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    """The tables for people."""
    for pool in results["pools"]:
        yield (
            f"{pool['name']}: {pool['rows']} rows of {pool['scan']['dataset']['name']}, "
            f"model {pool['scan']['model']['name']}"
        )
        yield (
            f"{'representation':28}  {'gradient':30}  {'spearman':>8}  {'95 %':>16}  {'given length':>12}  {'95 %':>16}"
        )
        for one in pool["correlations"]:
            yield (
                f"{one['representation']:28}  {one['gradient']:30}  {_number(one['spearman']):>8}  "
                f"{_span(one['low'], one['high']):>16}  {_number(one['given_length']):>12}  "
                f"{_span(one['given_length_low'], one['given_length_high']):>16}"
            )
        yield "with response length: " + ", ".join(
            f"{one['column']} {_number(one['spearman'])}" for one in pool["length"]
        )
    if len(results["pools"]) > 1:
        clear = [one for one in results["agreement"] if one["sign"] != "unclear"]
        yield f"Given length, {len(clear)} of {len(results['agreement'])} pairs have one clear sign in all pools:"
        for one in clear:
            yield (
                f"  {one['representation']}, {one['gradient']}: {_number(one['lowest'])} to {_number(one['highest'])}"
            )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _span(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
