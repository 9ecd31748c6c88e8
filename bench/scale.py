"""Memory and time by number of rows: ``python -m bench.scale [--rows 1000,10000,100000] [--out FOLDER]``.

Generated rows of realistic lengths, scanned end to end on the embedded model, by representation alone unless
``--signals`` says otherwise, each number of rows in a process of its own. What was finished in the folder with the
versions of now is not run again, and a scan that was stopped goes on. ``--rows 3000 --interrupt 2`` asks something
else: whether a scan that is killed twice and resumed comes to the scores of one that is not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from bench import interrupted

SIZES = "1000,10000,100000"
SIGNALS = ("representation", "gradient", "all")
MEAN_TOKENS = 60
SHARD_ROWS = 256
SPREAD = 0.6
"""Standard deviation of the logarithm of a response's length, about that of instruction sets."""
SOURCE = "source"
"""What the hash of the code is called among versions."""
FLAT = 1.10
"""The largest scan may take so many times the smallest's memory, once a first shard is done."""
WORDS = (
    "about after again along answer autumn because before begin between boat bread bridge bring build carry change "
    "children choose city clear close cloud cold colour come corner count country day dinner door draw early earth "
    "evening every family farm field find first floor follow forest friend garden give glass green group grow hand "
    "happy harbour heavy help hill history hold home horse hour house idea island keep kitchen lake large later learn "
    "leave letter light line listen little long market measure meet middle mill minute moment moon morning mountain "
    "music name near never night north number ocean often open orange paper part path people picture place plant "
    "point quiet rain read ready river road room round salt school season second seed short simple slow small snow "
    "song south spring square stone story street summer sure table tea thing think three time town train travel tree "
    "under until valley village visit voice wait walk warm water weather week west while wind window winter wood word "
    "work world write year yellow young"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A scan to measure."""

    rows: int
    signals: str
    mean_tokens: int
    shard_rows: int

    @property
    def shards(self) -> int:
        """Shards that its rows make."""
        return -(-self.rows // self.shard_rows)

    @property
    def text(self) -> str:
        """Names its dataset's file."""
        return f"rows-{self.rows}" + (f"-tokens-{self.mean_tokens}" if self.mean_tokens != MEAN_TOKENS else "")

    @property
    def name(self) -> str:
        """Tells its folder and figures from those of other scans: what is as usual goes without saying."""
        named = {"signals": (self.signals, SIGNALS[0]), "shards": (self.shard_rows, SHARD_ROWS)}
        return self.text + "".join(f"-{key}-{value}" for key, (value, usual) in named.items() if value != usual)

    def command(self, dataset: Path, run: Path) -> list[str]:
        """The scan as a command line."""
        scan = [sys.executable, "-m", "ripcurrent", "scan", str(dataset), "--out", str(run)]
        return [*scan, "--signals", self.signals, "--shard-rows", str(self.shard_rows)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=SIZES, help="numbers of rows, smallest first, with commas between")
    parser.add_argument("--signals", choices=SIGNALS, default=SIGNALS[0], help="which method runs (%(default)s)")
    parser.add_argument(
        "--mean-tokens", type=int, default=MEAN_TOKENS, help="of a row, template included (%(default)s)"
    )
    parser.add_argument("--shard-rows", type=int, default=SHARD_ROWS, help="rows per shard on disk (%(default)s)")
    parser.add_argument("--interrupt", type=int, metavar="K", help="kill each scan K times, resume it, compare scores")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-scale"), help="where rows, runs and figures go")
    arguments = parser.parse_args()
    sizes = sorted({int(part) for part in arguments.rows.split(",")})
    kinds = [Kind(rows, arguments.signals, arguments.mean_tokens, arguments.shard_rows) for rows in sizes]
    if arguments.interrupt is not None and not 1 <= arguments.interrupt < kinds[0].shards:
        parser.error(
            f"{kinds[0].rows} rows make {kinds[0].shards} shards of {kinds[0].shard_rows}: --interrupt takes 1 to "
            f"{kinds[0].shards - 1}, or give a smaller --shard-rows"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.interrupt is None:
        return _report([_measured(kind, arguments.out) for kind in kinds], arguments.signals)
    return max([_interrupted(kind, arguments.out, arguments.interrupt) for kind in kinds])


def generated_rows(count: int, words_a_row: float, seed: int = 0) -> Iterator[dict[str, str]]:
    """Rows of plain words: a question, and an answer whose length is log-normal around ``words_a_row``, 512 at most."""
    generator, vocabulary = np.random.default_rng(seed), WORDS.split()
    for number in range(count):
        length = words_a_row * generator.lognormal(-(SPREAD**2) / 2, SPREAD)
        words = generator.choice(vocabulary, int(np.clip(length, 2, 512)))
        yield {
            "instruction": f"Write about the {' and the '.join(words[:2])}, part {number}.",
            "output": " ".join(words).capitalize() + ".",
        }


def _words_for(mean_tokens: float) -> float:
    """Words of an answer at which rows have so many tokens on average, template and question included."""
    from ripcurrent.data import Message, Row, encode_rows
    from ripcurrent.models import load_model

    def mean_at(words: float) -> float:
        rows = (
            Row(n, "", (Message("user", r["instruction"]), Message("assistant", r["output"])), None, r)
            for n, r in enumerate(generated_rows(400, words))
        )
        return float(np.mean([len(row.tokens) for row in encode_rows(rows, tokenizer)]))

    tokenizer = load_model("embedded").tokenizer
    low, high = mean_at(8), mean_at(24)
    return max(3.0, 8 + (mean_tokens - low) * 16 / (high - low))


def _dataset(kind: Kind, folder: Path) -> Path:
    """The file of generated rows, written where it is not there yet."""
    dataset = folder / f"{kind.text}.jsonl"
    if not dataset.exists():
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            for row in generated_rows(kind.rows, _words_for(kind.mean_tokens)):
                file.write(json.dumps(row) + "\n")
        Path(file.name).replace(dataset)
    return dataset


def _interrupted(kind: Kind, folder: Path, kills: int) -> int:
    """Scan undisturbed and interrupted, print both and the verdict; 0 where the scores are the same."""
    dataset, place = _dataset(kind, folder), folder / f"interrupted-{kind.name}"
    place.mkdir(exist_ok=True)
    found = interrupted.compare(lambda run: kind.command(dataset, run), place, kind.rows, kind.shards, kills)
    figures = place / "figures.json"
    figures.write_text(json.dumps(found.as_json(), indent=2) + "\n", encoding="utf-8")
    print(f"\nsignals {kind.signals}, embedded model, {kind.shards} shards of {kind.shard_rows} rows")
    print("\n".join(interrupted.lines_of(found)))
    return 0 if found.passed else 1


def _measured(kind: Kind, folder: Path) -> dict[str, Any]:
    """The figures of a scan: those that are there, of the versions of now, or those of a scan made or completed now."""
    figures = folder / f"{kind.name}.json"
    run = folder / kind.name.replace("rows-", "run-", 1)
    if figures.exists():
        before = dict(json.loads(figures.read_text(encoding="utf-8")))
        changed = _changed(before.get("versions", {}))
        if not changed:
            print(f"{kind.rows} rows: as measured before ({figures})", flush=True)
            return before
        kept = figures.with_suffix(".json.old")
        print(f"{kind.rows} rows: measured before with {', '.join(changed)}: again ({kept} keeps them)", flush=True)
        shutil.rmtree(run, ignore_errors=True)
        figures.replace(kept)
    dataset = _dataset(kind, folder)
    resumed = (run / "signals").exists()
    print(f"{kind.rows} rows: scanning{', going on where it stopped' if resumed else ''}", flush=True)
    process = interrupted.run_to(kind.command(dataset, run), run, kind.shards, None)
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    timings = manifest["timings"]
    measured = {
        "rows": kind.rows,
        "mean_tokens": _mean_tokens(run / "scores.parquet"),
        "seconds": None if resumed else process.seconds,
        "rows_in_this_call": timings["rows_scored_in_this_call"],
        "rows_per_second": timings["rows_scored_in_this_call"] / timings["signals"] if timings["signals"] else None,
        "seconds_besides_rows": process.seconds - timings["signals"],
        # of a scan that went on it is the last process's alone
        "peak_bytes": None if resumed else process.peak_bytes,
        "rows_peak_bytes": process.rows_peak_bytes,
        "bytes_on_disk": sum(file.stat().st_size for file in run.rglob("*") if file.is_file()),
        "dtype": manifest["model"]["dtype"],
        "versions": {"ripcurrent": manifest["version"], SOURCE: _source(), **manifest["versions"]},
    }
    figures.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured


def _source() -> str:
    """A hash of the package's code: its version stays the same while it is worked on."""
    import ripcurrent

    files = sorted(Path(ripcurrent.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _changed(versions: Mapping[str, str]) -> list[str]:
    """What of the packages, ripcurrent among them, has another version now than in these figures, in words."""
    found = []
    for name in dict.fromkeys(("ripcurrent", SOURCE, *versions)):
        try:
            now = _source() if name == SOURCE else version(name)
        except PackageNotFoundError:
            now = "none"
        if (then := versions.get(name, "unknown")) != now:
            found.append(f"{name} {then}, now {now}")
    return found


def _mean_tokens(scores: Path) -> float:
    import pyarrow.parquet as pq

    table = pq.read_table(scores, columns=["prompt_tokens", "response_tokens"])
    return float(np.mean(table["prompt_tokens"].to_numpy() + table["response_tokens"].to_numpy()))


def _report(found: list[dict[str, Any]], signals: str) -> int:
    print(f"\nsignals {signals}, embedded model, {found[0]['dtype']}, a process each, peaks of all and past a shard")
    print(f"{'rows':>8} {'tokens':>7} {'minutes':>8} {'rows/s':>7} {'peak MB':>8} {'rows MB':>8} {'disk MB':>8}")
    for one in found:
        minutes = "resumed" if one["seconds"] is None else f"{one['seconds'] / 60:.1f}"
        print(
            f"{one['rows']:>8} {one['mean_tokens']:>7.1f} {minutes:>8} {one['rows_per_second'] or 0:>7.1f} "
            f"{'–' if one['peak_bytes'] is None else format(one['peak_bytes'] / 1e6, '.0f'):>8} "
            f"{one['rows_peak_bytes'] / 1e6:>8.0f} "
            f"{one['bytes_on_disk'] / 1e6:>8.1f}"
        )
    if len(found) == 1:
        return 0
    if not all(one["rows_peak_bytes"] and one["peak_bytes"] for one in found):
        print("memory with rows: no verdict, as not every scan was one process's that could be looked at")
        return 0
    # loading takes the most where only representations are read, and would hide what grows with the rows
    ratio = found[-1]["rows_peak_bytes"] / found[0]["rows_peak_bytes"]
    flat = ratio <= FLAT
    print(f"memory with rows, most rows over fewest: {ratio:.2f}   goal ≤ {FLAT}  {'pass' if flat else 'FALL SHORT'}")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
