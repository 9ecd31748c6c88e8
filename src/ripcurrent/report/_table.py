"""A scan's rows as its page shows them, and the search through all of them that the viewer needs."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from ripcurrent.anchors import HARMFUL, load_anchors
from ripcurrent.errors import RipcurrentError
from ripcurrent.progress import Progress
from ripcurrent.report._page import Data
from ripcurrent.report._rows import Clip, Texts, clip_text, read_page_shares
from ripcurrent.runs import written_whole
from ripcurrent.scan import ANSWERS, COLUMNS, REQUESTS, TRAIT_COLUMNS, Column, ScanRun

DIGITS = 7
"""Of numbers in the page: as many as a score has, so that a cut parts the rows that it should."""
HIDDEN = "[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
"""Characters that a reader does not see: zero-width, of writing direction, and tags."""
KINDS = {**ANSWERS, "is_short": "short answers", "opens_numbered": "numbered openings"}
"""Columns of flags in words."""
TEXTS = "view/texts.arrow"
"""All texts of a run, in its folder, so that they are found in a second."""
BATCH_ROWS = 5_000
LIST_BYTES = 1_200
"""Text of a row in a list of rows that the viewer sends."""

Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Part = Literal["all", "cut", "unscored", "hidden", "shares", "decided"]


class RowQuery(BaseModel):
    """Which rows a reader wants to see, in which order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: str = ""
    """Words that must all be there, wherever; "quoted" ones together, with a minus none of them; or a row's number."""
    part: Part = "all"
    cut: int = 0
    """How many of the riskiest rows the part ``cut`` holds."""
    kinds: list[str] = []
    """Kinds of answer or request that each row must have, by name."""
    shortest: int = 0
    longest: int | None = None
    """Response tokens."""
    by: str = ""
    """Column that ranks; ``row`` for the input's order."""
    reverse: bool = False
    page: int = Field(default=0, ge=0)
    size: int = Field(default=25, ge=1, le=200)


class RowTable:
    """The rows of one scan."""

    def __init__(self, run: ScanRun, ranking: str | None) -> None:
        self.run, self.ranking = run, ranking
        self.columns: list[Column] = [column for column in COLUMNS if column.name in run.ranking_columns]
        # a list is a numbered or a bulleted one, which are shown
        shown = [column for column in TRAIT_COLUMNS if column in run.columns and column != "is_list"]
        self.traits = {column: KINDS.get(column, column) for column in shown}
        self.order = lru_cache(maxsize=8)(self._order)

    @cached_property
    def ranked(self) -> Indices:
        return self.run.ranked(self.ranking) if self.ranking else np.zeros(0, dtype=np.int64)

    @cached_property
    def ranks(self) -> Indices:
        """1-based rank of every row, 0 of a row without one."""
        ranks = np.zeros(self.run.rows, dtype=np.int64)
        ranks[self.ranked] = np.arange(1, len(self.ranked) + 1)
        return ranks

    def records(self, indices: Indices, texts: Texts, shares: Data | None = None) -> list[Data]:
        """Rows as the page's script reads them: values in the order of ``columns``."""
        names = [column.name for column in self.columns]
        taken = self.run.take(indices, ["id", "status", "truncated", *names, *self.traits]).to_pydict()
        values = list(zip(*(short(taken[name]) for name in names), strict=True)) or [()] * len(indices)
        packed = [None] * len(indices) if shares is None else shares["rows"]
        return [
            {
                **{"row": row, "id": taken["id"][at], "status": taken["status"][at]},
                **{"rank": int(self.ranks[row]) or None, "truncated": taken["truncated"][at], "values": values[at]},
                "traits": [name for column, name in self.traits.items() if taken[column][at]],
                **{"texts": texts.get(row), "shares": packed[at], "why": self._why(row)},
            }
            for at, row in enumerate(indices.tolist())
        ]

    def detail(self, row: int) -> Data:
        """One row with its whole text and its token shares."""
        # refused here where the scan has no such row
        self.run.ids([row])
        texts = self.texts.whole(row)
        norms = self.run.floats("gradient_norm")[row : row + 1].tolist() if "gradient_norm" in self.run.columns else []
        at = np.array([row])
        return self.records(at, texts, read_page_shares(self.run, at, norms, texts))[0]

    def find(self, query: RowQuery, decided: Iterable[int] = ()) -> tuple[int, Indices]:
        """How many rows a query finds, and those of its page."""
        order, keep = self.order(query.by or self.ranking or "row"), self._filtered(query, decided)
        found = order[keep[order]]
        if query.reverse:
            found = found[::-1]
        return len(found), found[query.page * query.size :][: query.size]

    def _order(self, column: str) -> Indices:
        """All rows, riskiest first by a column, those without a value last."""
        everything = np.arange(self.run.rows)
        if column == "row":
            return everything
        if not np.isfinite(self.run.floats(column)[self.run.scored]).any():
            return everything
        ranked = self.run.ranked(column)
        return np.concatenate([ranked, np.setdiff1d(everything, ranked, assume_unique=True)])

    def _filtered(self, query: RowQuery, decided: Iterable[int]) -> Bools:
        run, keep = self.run, np.ones(self.run.rows, dtype=bool)
        columns = {name: column for column, name in self.traits.items()}
        for name in query.kinds:
            keep &= run.flags(columns[name]) if name in columns else self.texts.ask(REQUESTS[name])
        if query.shortest or query.longest is not None:
            tokens = run.floats("response_tokens")
            keep &= tokens >= query.shortest
            keep &= tokens <= (np.inf if query.longest is None else query.longest)
        if query.part == "cut":
            keep &= (self.ranks > 0) & (self.ranks <= query.cut)
        elif query.part == "unscored":
            keep &= ~run.scored
        elif query.part == "hidden":
            keep &= self.texts.flags("hidden")
        elif query.part == "decided":
            keep &= np.isin(np.arange(run.rows), list(decided))
        for absent, word in _words(query.words):
            has = self.texts.contain(word)
            if word.isdigit() and int(word) < run.rows:
                has[int(word)] = True
            keep &= has != absent
        return keep

    @cached_property
    def texts(self) -> "AllTexts":
        return AllTexts(self.run)

    def _why(self, row: int) -> Data | None:
        """What explains a row's place: on each side the percent of rows that are farther, and the nearest anchor."""
        if not self.ranks[row] or self.ranking is None:
            return None
        family = self.ranking.split("_")[0]
        sides = {side: self._percentiles.get(f"{family}_{side}") for side in ("harmful", "safe")}
        found: Data = {side: None if of is None else int(of[row]) for side, of in sides.items()}
        return found | {"anchor": self._requests.get(int(self._nearest[row]))}

    @cached_property
    def _percentiles(self) -> dict[str, npt.NDArray[np.int8]]:
        found = {}
        for name in ("gradient_harmful", "gradient_safe", "representation_harmful", "representation_safe"):
            values = self.run.floats(name) if name in self.run.columns else np.zeros(0)
            there = np.isfinite(values)
            if there.any():
                below = np.searchsorted(np.sort(values[there]), values) * 100 // there.sum()
                found[name] = np.where(there, np.minimum(below, 99), 0).astype(np.int8)
        return found

    @cached_property
    def _nearest(self) -> npt.NDArray[np.int16]:
        """The harmful anchor whose representation is nearest to each row's, -1 where that was not measured."""
        nearest = np.full(self.run.rows, -1, dtype=np.int16)
        harmful = [at for at, (name, _) in enumerate(self.run.manifest.anchors.order) if name == HARMFUL]
        if harmful:
            for rows, cosines in self.run.cosines():
                nearest[rows] = np.array(harmful)[cosines[:, harmful].argmax(axis=1)]
        return nearest

    @cached_property
    def _requests(self) -> dict[int, str]:
        """The requests of the anchors by number, where the anchors of the scan are still at hand."""
        try:
            anchors = load_anchors(self.run.options.anchors)
        except RipcurrentError:
            return {}
        if anchors.sha256 != self.run.manifest.anchors.sha256:
            return {}
        turns = ([m.content for m in one.messages if m.role == "user"] for one in anchors.anchors)
        return {at: clip_text(said[-1], 200).text for at, said in enumerate(turns) if said}


class AllTexts:
    """The texts of every row of a run, in a file that is read where it lies; made at the first use."""

    def __init__(self, run: ScanRun, progress: Progress | None = None) -> None:
        path = run.folder / TEXTS
        wanted = {b"dataset": run.manifest.dataset.sha256.encode()}
        if not path.is_file() or pa.ipc.open_file(pa.memory_map(str(path))).schema.metadata != wanted:
            path.parent.mkdir(exist_ok=True)
            text = pa.large_string()
            fields = {"id": pa.string(), "prompt": text, "response": text, "hidden": pa.bool_()}
            schema = pa.schema(fields, metadata=wanted)
            with written_whole(path) as part, pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, schema) as out:
                for batch in _batches(run, progress or Progress()):
                    out.write_batch(pa.record_batch(batch, schema=schema))
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def flags(self, column: str) -> Bools:
        found: Bools = self._table[column].to_numpy()
        return found

    def contain(self, word: str) -> Bools:
        """Which rows have a word in prompt or response, in capitals or not, or for their id."""
        has: Bools = pc.equal(self._table["id"], word).to_numpy().copy()
        for name in ("prompt", "response"):
            has |= pc.match_substring(self._table[name], word, ignore_case=True).to_numpy()
        return has

    @lru_cache(maxsize=8)  # noqa: B019  # one table of texts is kept as long as its run is looked at
    def ask(self, pattern: str) -> Bools:
        """Which rows have a request that begins so."""
        heads = pc.utf8_lower(pc.utf8_slice_codeunits(self._table["prompt"], 0, 400))
        found: Bools = pc.match_substring_regex(heads, f"(?s){pattern}").to_numpy()
        return found

    def whole(self, row: int) -> Texts:
        said = [self._table[name][row].as_py() for name in ("prompt", "response")]
        return {row: (Clip(said[0], len(said[0])), Clip(said[1], len(said[1])))}

    def heads(self, rows: Indices) -> Texts:
        """The beginnings of rows' texts, for a list of them."""
        found = {}
        for row in rows.tolist():
            prompt, response = self.whole(row)[row]
            found[row] = clip_text(prompt.text, LIST_BYTES // 3), clip_text(response.text, LIST_BYTES)
        return found


def _batches(run: ScanRun, progress: Progress) -> Iterable[list[pa.Array]]:
    hidden, rows = re.compile(HIDDEN), iter(run.dataset())
    progress.start("reading the rows", run.rows)
    while batch := list(islice(rows, BATCH_ROWS)):
        said = [[_valid(text) for text in (row.id, row.prompt, row.response)] for row in batch]
        columns: list[pa.Array] = [pa.array(one, pa.large_string()) for one in zip(*said, strict=True)]
        columns[0] = columns[0].cast(pa.string())
        yield [*columns, pa.array([bool(hidden.search(one[1]) or hidden.search(one[2])) for one in said])]
        progress.rows(len(batch))
    progress.finish()


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _words(said: str) -> list[tuple[bool, str]]:
    """The words of a search, each with whether it must be absent."""
    found = re.findall(r'(-?)(?:"([^"]+)"|(\S+))', said)
    return [(bool(minus), (quoted or word).strip('"')) for minus, quoted, word in found if (quoted or word).strip('"')]


def short(values: Sequence[float | None]) -> list[float | None]:
    """Numbers for JSON: whole numbers as they are, others rounded, NaN and null as None."""
    return [
        value if isinstance(value, int) else None if value is None or value != value else float(f"{value:.{DIGITS}g}")
        for value in values
    ]
