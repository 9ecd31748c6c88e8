"""The outcome of every request in every run, in one table: what an experiment's rates and comparisons rest on."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import Prompt, Verdict
from ripcurrent.experiment._tables import ArmRun, Outcomes, by_arm
from ripcurrent.runs import written_whole

OUTCOMES = "outcomes.parquet"
_TEXTS = ("prompt_id", "axis", "judge", "judge_version", "verdict")
_SCHEMA = pa.schema([("arm", pa.string()), ("run", pa.int64()), *((name, pa.string()) for name in _TEXTS)])


def write_outcomes(folder: Path, runs: Sequence[ArmRun]) -> None:
    """Keep what every judge said of every answer of the runs, in their order."""
    rows = [
        (run.arm, run.seed, prompt.id, prompt.axis, judge, one.version, one.label)
        for run in runs
        for judge, said in run.verdicts.items()
        for prompt, one in zip(run.prompts, said, strict=True)
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
    with written_whole(folder / OUTCOMES) as part:
        pq.write_table(pa.table(list(map(list, columns)), schema=_SCHEMA), part, compression="zstd")


def read_outcomes(folder: str | Path) -> dict[str, Outcomes]:
    """The stored outcomes of an experiment's arms by name, each a table ``(prompts, runs)`` by judge and axis.

    ``read_outcomes(folder)["top"].table("prefix", "harmful")`` is what `statistics.run_difference` takes. Of a prompt
    they hold the id and the axis; no answer and no request is in them. `RipcurrentError` where there are none.
    """
    path = Path(folder) / OUTCOMES
    try:
        rows = pq.read_table(path, schema=_SCHEMA).to_pylist()
    except (OSError, pa.ArrowException) as error:
        hint = "Run the same `ripcurrent experiment` again; finished arms are kept."
        raise RipcurrentError(f"{path} cannot be read: {str(error).splitlines()[0]}.", hint) from error
    return by_arm([_run(arm, seed, list(own)) for (arm, seed), own in groupby(rows, itemgetter("arm", "run"))])


def _run(arm: str, seed: int | None, rows: Sequence[Any]) -> ArmRun:
    said = {judge: list(own) for judge, own in groupby(rows, itemgetter("judge"))}
    prompts = [Prompt(one["prompt_id"], "", one["axis"], "", "") for one in next(iter(said.values()))]
    verdicts = {
        judge: [Verdict(one["verdict"], judge, one["judge_version"], truncated=False) for one in own]
        for judge, own in said.items()
    }
    return ArmRun(arm, seed, prompts, (), verdicts)
