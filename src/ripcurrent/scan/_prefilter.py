"""The prefilter: a representation pass over all rows picks the share that the gradient pass then sees.

What that loses is measured in the same run, never assumed: rows drawn at random from all of them go through the
gradient pass whether they were picked or not, and the share of their riskiest hundredth that was picked is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ripcurrent.data import Dataset, Row
from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import written_whole
from ripcurrent.scan._columns import DIRECTION_OF_RISK, REPRESENTATION_COLUMNS
from ripcurrent.scan._score import PREFILTER, Scorer
from ripcurrent.statistics import spearman

PICKED_BY = "representation_bidirectional"
"""The score of the representation pass whose riskiest rows are picked, unless another is named."""

PASSED, SAMPLED, LEFT_OUT = "passed", "sampled", "left_out"
"""Values of the column ``prefilter``: picked; not picked, but scored to measure the recall; without gradient scores."""

SHARES = (0.01, 0.05, 0.10)
"""Riskiest shares of the sample whose recall is measured; the first is the one that counts."""


@dataclass(frozen=True, slots=True)
class Recall:
    """How much of the sample's riskiest rows the prefilter picked."""

    share: float
    """The riskiest share of the sample, 0 to 1."""
    rows: int
    """Rows in it."""
    picked: int
    """How many of them were picked."""
    low: float
    """Lower end of the Wilson interval of their share, at 95 %."""
    high: float
    """Its upper end."""


@dataclass(frozen=True, slots=True)
class Picked:
    """What the representation pass let through."""

    usable: int
    """Rows that the representation pass scored."""
    passed: npt.NDArray[np.int64]
    """Row numbers picked, ascending."""
    sampled: npt.NDArray[np.int64]
    """Row numbers of the random sample, ascending; picked ones among them."""
    by: str = PICKED_BY
    """The score that they were picked by."""
    otherwise: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    """The row numbers, ascending, that each other score of the representation pass would have picked."""

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Row numbers that the gradient pass sees, ascending."""
        return np.union1d(self.passed, self.sampled)


class PickedRows:
    """Some of a dataset's rows, in order, as a stream that can be started anywhere."""

    def __init__(self, rows: Dataset, chosen: npt.NDArray[np.int64]) -> None:
        self._rows = rows
        self._chosen = chosen

    def iter_from(self, start: int) -> PickedStream:
        """The chosen rows from the ``start``-th on."""
        return PickedStream(self._rows, self._chosen[start:])


class PickedStream(Iterator[Row]):
    """Chosen rows in order; rows between them are stepped over and never made."""

    def __init__(self, rows: Dataset, chosen: npt.NDArray[np.int64]) -> None:
        self._rows = rows
        self._chosen = chosen
        self._place = 0
        self._stream: Iterator[Row] | None = None
        self._at = 0

    def __next__(self) -> Row:
        if self._place >= len(self._chosen):
            raise StopIteration
        wanted = int(self._chosen[self._place])
        if self._stream is None:
            self._stream, self._at = self._rows.iter_from(wanted), wanted
        next(islice(self._stream, wanted - self._at, wanted - self._at), None)
        self._place, self._at = self._place + 1, wanted + 1
        return next(self._stream)

    def skip(self, count: int) -> None:
        """Step over so many of the chosen rows, or as many as are left."""
        self._place += count


def pick_rows(
    tables: Iterable[pa.Table], scorer: Scorer, share: float, sample: int, seed: int, by: str = PICKED_BY
) -> Picked:
    """The rows that the representation pass picks, and the sample; from its shards, some bytes a row in memory.

    The ``share`` of the usable rows that is riskiest by the column ``by`` is picked, at least one row; ties go to the
    lower row number. Which end of a column is riskier, its direction of risk says.
    """
    numbers: list[npt.NDArray[np.int64]] = []
    risks: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in REPRESENTATION_COLUMNS}
    for signals in tables:
        scored = scorer.score(signals)
        fine = np.asarray(scored["status"].to_pylist()) == "ok"
        numbers.append(scored["row"].to_numpy()[fine])
        for name, values in risks.items():
            values.append(risk(name, scored[name].to_numpy()[fine]))
    rows = np.concatenate(numbers) if numbers else np.zeros(0, np.int64)
    if not len(rows):
        return Picked(0, rows, rows, by)
    count = max(1, int(np.ceil(share * len(rows) - 1e-9)))
    picks = {
        name: np.sort(rows[np.argsort(-np.concatenate(values), kind="stable")[:count]])
        for name, values in risks.items()
    }
    drawn = np.random.default_rng(seed).choice(rows, min(sample, len(rows)), replace=False)
    return Picked(len(rows), picks.pop(by), np.sort(drawn), by, picks)


def write_picked(path: Path, picked: Picked) -> None:
    """Keep what was picked, whole."""
    arrays: dict[str, Any] = {name: getattr(picked, name) for name in ("usable", "passed", "sampled", "by")}
    arrays |= {f"otherwise/{name}": rows for name, rows in picked.otherwise.items()}
    with written_whole(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def read_picked(path: Path) -> Picked:
    """The reverse of :func:`write_picked`.

    Raises:
        RipcurrentError: The file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as kept:
            return Picked(
                int(kept["usable"]),
                kept["passed"],
                kept["sampled"],
                str(kept["by"]),
                {name.partition("/")[2]: kept[name] for name in kept.files if name.startswith("otherwise/")},
            )
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise RipcurrentError(
            f"{path} is damaged: {error}.",
            f"Delete the folder {path.parent} and run the same scan again: its gradient pass is computed anew.",
        ) from error


def risk(column: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A column's values turned so that higher is riskier."""
    return -values if DIRECTION_OF_RISK[column] == "lower" else values


def join_gradients(tables: Iterable[pa.Table], gradients: Iterable[pa.Table], picked: Picked) -> Iterator[pa.Table]:
    """The representation pass's shards with the columns of the gradient pass, null for rows that it did not see."""
    waiting = iter(gradients)
    held: pa.Table | None = None
    passed, wanted = set(picked.passed.tolist()), picked.rows
    for table in tables:
        last = table["row"][-1].as_py()
        while held is None or not held.num_rows or held["row"][-1].as_py() < last:
            following = next(waiting, None)
            if following is None:
                break
            held = following if held is None else pa.concat_tables([held, following])
        if held is None:
            # nothing was usable, so there are no gradients to join
            yield table.append_column(PREFILTER, pa.nulls(table.num_rows, pa.string()))
            continue
        rows = held["row"].to_numpy()
        _require_gradients(table["row"].to_numpy(), wanted, rows)
        yield _joined(table, held, passed)
        held = held.slice(int(np.searchsorted(rows, last, side="right")))


def _require_gradients(
    rows: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64], there: npt.NDArray[np.int64]
) -> None:
    first, last = np.searchsorted(wanted, (rows[0], rows[-1] + 1))
    lost = np.setdiff1d(wanted[first:last], there)
    if len(lost):
        raise RipcurrentError(
            f"Row {lost[0]} was picked, and the gradient pass has no such row ({len(lost)} in this shard).",
            "Delete the folder signals/gradient of the run and run the same scan again: that pass is computed anew.",
        )


def _joined(table: pa.Table, gradients: pa.Table, passed: set[int]) -> pa.Table:
    place = {row: number for number, row in enumerate(gradients["row"].to_pylist())}
    rows = table["row"].to_pylist()
    places = pa.array([place.get(row) for row in rows], pa.int64())
    for name in gradients.column_names:
        if name not in table.column_names:
            table = table.append_column(name, gradients[name].take(places))
    after = gradients["status"].take(places).to_pylist()
    before = table["status"].to_pylist()
    statuses = [was if was != "ok" or now is None else now for was, now in zip(before, after, strict=True)]
    ways = [
        None if was != "ok" else PASSED if row in passed else SAMPLED if row in place else LEFT_OUT
        for row, was in zip(rows, before, strict=True)
    ]
    table = table.set_column(table.column_names.index("status"), "status", pa.array(statuses, pa.string()))
    spoilt = pa.array([was == "ok" and now != "ok" for was, now in zip(before, statuses, strict=True)])
    if spoilt.true_count:
        # a row without a score has none of either pass
        for name in table.column_names:
            if name == "representation_cosines" or name.startswith("window_"):
                values = pc.if_else(spoilt, pa.scalar(None, table[name].type), table[name])
                table = table.set_column(table.column_names.index(name), name, values)
    return table.append_column(PREFILTER, pa.array(ways, pa.string()))


def prefilter_record(scores: Iterable[pa.Table], picked: Picked, share: float, ranking: str) -> dict[str, Any]:
    """What the manifest keeps of a prefilter: how many rows passed, and the recall on the sample.

    Args:
        scores: Tables of scores in which the sample's rows are found.
        picked: What was picked.
        share: The share asked for.
        ranking: The score of the gradient pass that says which rows are truly riskiest.
    """
    numbers: list[int] = []
    true: list[float] = []
    cheap: dict[str, list[float]] = {name: [] for name in (picked.by, *picked.otherwise)}
    sampled = set(picked.sampled.tolist())
    for table in scores:
        columns = (table[name].to_pylist() for name in ("row", "status", ranking, *cheap))
        for row, status, value, *others in zip(*columns, strict=True):
            if row in sampled and status == "ok" and value is not None and value == value:
                numbers.append(row)
                true.append(value)
                for values, other in zip(cheap.values(), others, strict=True):
                    values.append(other)

    def found(column: str, passed: npt.NDArray[np.int64]) -> dict[str, Any]:
        risks = risk(column, np.asarray(cheap[column], dtype=np.float64))
        return {
            "spearman_on_sample": spearman(true, risks),
            "recall": [asdict(one) for one in recalls(np.asarray(numbers), np.asarray(true), passed)],
        }

    record = {
        "share": share,
        "usable_rows": picked.usable,
        "passed": len(picked.passed),
        "picked_by": picked.by,
        "ranking": ranking,
        "sample": len(numbers),
        **found(picked.by, picked.passed),
        "otherwise": {name: found(name, passed) for name, passed in picked.otherwise.items()},
    }
    return {**record, "in_words": recall_sentence(record)}


def recalls(rows: npt.NDArray[Any], values: npt.NDArray[Any], passed: npt.NDArray[np.int64]) -> list[Recall]:
    """Recall of the sample's riskiest shares; ties go to the lower row number. None for a share below one row."""
    from ripcurrent.statistics import wilson_interval

    order = np.argsort(-values, kind="stable") if len(values) else np.zeros(0, dtype=int)
    found = []
    for share in SHARES:
        count = int(share * len(order) + 1e-9)
        if count:
            hits = int(np.isin(rows[order[:count]], passed).sum())
            interval = wilson_interval(hits, count)
            found.append(Recall(share, count, hits, interval.low, interval.high))
    return found


def recall_sentence(record: Mapping[str, Any]) -> str:
    """A few sentences on what a prefilter let through and what it lost, for the terminal and the page."""
    passed = (
        f"{record['passed']} of {record['usable_rows']} rows ({100 * record['share']:.3g} % asked for), picked by "
        f"{record['picked_by']},"
    )
    if not record["recall"]:
        return (
            f"Prefilter: {passed} had gradients. Recall UNKNOWN: the sample has {record['sample']} rows, and its "
            "riskiest hundredth is less than one; give a larger --prefilter-sample."
        )
    parts = [
        f"{found['picked']} of the riskiest {found['rows']} ({found['share']:.0%}; "
        f"{found['picked'] / found['rows']:.0%}, interval {found['low']:.0%} to {found['high']:.0%})"
        for found in record["recall"]
    ]
    others = [
        f"by {name} {', '.join(str(found['picked']) for found in other['recall'])}"
        for name, other in record["otherwise"].items()
    ]
    return (
        f"Prefilter: {passed} had gradients. Of a random sample of {record['sample']} rows, which all had them, it let "
        f"through {'; '.join(parts)} by {record['ranking']}. The rest of the riskiest rows is missed at that rate. "
        f"Of the same rows --prefilter-by would have let through: {'; '.join(others)}."
    )
