"""``ripcurrent scan``: score every row of a dataset."""

from __future__ import annotations

from contextlib import nullcontext
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ripcurrent.progress import Progress
    from ripcurrent.scan import Execution, Part, ScanRun

MODEL = Annotated[
    str,
    typer.Option(
        metavar="M",
        help="Hub id, folder, .gguf file, or embedded; M,enable_thinking=false sets a variable of its chat template.",
    ),
]
ADAPTER = Annotated[str | None, typer.Option(metavar="A", help="PEFT adapter: folder or hub id.")]
DEVICE = Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is unless named.")]
SPREAD_DEVICE = Annotated[
    str | None, typer.Option(help="cuda, mps, cpu, or auto: layers on all GPUs; the best one there is unless named.")
]
DTYPE = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
ANCHORS = Annotated[str, typer.Option(metavar="FILE", help="builtin, second_family, or a JSON-lines file.")]
FORMAT = Annotated[str | None, typer.Option(help="Row format, when it is not recognised.")]
MAP = Annotated[list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="Where a field is; repeatable.")]
LIMIT = Annotated[int | None, typer.Option(metavar="N", help="Read only the first N rows.")]
MAX_TOKENS = Annotated[int, typer.Option(metavar="N", help="Longer rows keep their head.")]
LOSS_ON = Annotated[str, typer.Option(help="Which assistant turns bear loss: all or last.")]
SCOPE = Annotated[str, typer.Option(help="Parameters that gradients are over: all, linear or lora.")]
SIGNALS = Annotated[str, typer.Option(help="Which method runs: all, gradient or representation.")]
POSITION = Annotated[
    str, typer.Option(help="Token that represents a row: last, last_content, mean_response or last_prompt.")
]
LAYER = Annotated[
    int | None, typer.Option(metavar="N", help="Block whose output is read; the last hidden state unless named.")
]
ATTENTION = Annotated[str, typer.Option(help="sdpa, or eager: least sensitive to batch shape.")]
WINDOWS = Annotated[
    bool, typer.Option("--windows", help="Cut plain documents longer than --max-tokens into windows, each scored.")
]
TOKEN_BUDGET = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Padded tokens per batch: 512 on a CPU, 2048 on MPS, 4096 on CUDA unless named.",
    ),
]
ROW_TOKENS = Annotated[str, typer.Option(metavar="all|N", help="First tokens of a row's response used.")]
MEMORY = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Keep to this much memory, such as 8GB (on CUDA: of the GPU's).")
]
TOKENS = Annotated[
    str | None,
    typer.Option(metavar="top:N", help="Which tokens carry the score, for the N riskiest and N most protective rows."),
]
FORECAST = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json", help="A calibration: what fine-tuning on these rows would do, before it is done."
    ),
]
SEED = Annotated[int, typer.Option(metavar="N", help="Seed of a fresh LoRA.")]
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
QUIET = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


def scan_command(
    context: typer.Context,
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="File, folder, 'pattern*', or hf:owner/name[:split].")
    ],
    model: MODEL = "embedded",
    adapter: ADAPTER = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Run folder; runs/<dataset> unless named.")] = None,
    signals: SIGNALS = "all",
    anchors: ANCHORS = "builtin",
    no_anchor_check: Annotated[
        bool, typer.Option("--no-anchor-check", help="Go on with anchors that do not separate harm from safety.")
    ] = False,
    scope: SCOPE = "all",
    position: POSITION = "last",
    layer: LAYER = None,
    avg_n: Annotated[int, typer.Option(metavar="N", help="How many largest cosines are averaged.")] = 1,
    anchor_tokens: Annotated[int, typer.Option(metavar="T", help="First tokens of an anchor's response used.")] = 10,
    row_tokens: ROW_TOKENS = "all",
    loss_on: LOSS_ON = "all",
    max_tokens: MAX_TOKENS = 1024,
    drop_refusals: Annotated[
        bool, typer.Option("--drop-refusals", help="Leave rows with a refusal phrase unscored.")
    ] = False,
    forecast: FORECAST = None,
    tokens: TOKENS = None,
    windows: WINDOWS = False,
    memory: MEMORY = None,
    format: FORMAT = None,
    mapping: MAP = None,
    limit: LIMIT = None,
    device: SPREAD_DEVICE = None,
    dtype: DTYPE = None,
    attention: ATTENTION = "sdpa",
    token_budget: TOKEN_BUDGET = None,
    shard_rows: Annotated[
        int, typer.Option(metavar="N", help="Rows per shard on disk: what an interruption can cost.")
    ] = 256,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of a fresh LoRA.")] = 0,
    shard: Annotated[
        str | None,
        typer.Option(metavar="i/n", help="Score only part i of n, from 0; auto: as SLURM or torchrun says."),
    ] = None,
    executor: Annotated[str, typer.Option(help="local, or ray: worker processes, here or on a cluster.")] = "local",
    workers: Annotated[int | None, typer.Option(metavar="N", help="Ray's worker processes.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A running Ray cluster, or auto; else a Ray of this machine.")
    ] = None,
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Score every row of a dataset against harmful and safe anchors, and write a ranked table and a page.

    A scan that was stopped goes on where it was when the same command is given again.
    """
    from ripcurrent.cli._output import TerminalProgress, print_json, say_default_model
    from ripcurrent.data import parse_mapping
    from ripcurrent.errors import RipcurrentError
    from ripcurrent.forecast._sentences import read_forecast
    from ripcurrent.scan import Execution, scan

    # before anything is read
    execution = Execution(executor, workers, ray_address)

    changes: dict[str, Any] = {
        "model": model,
        "adapter": adapter,
        "signals": signals,
        "anchors": anchors,
        "anchor_check": not no_anchor_check,
        "scope": scope,
        "position": position,
        "layer": layer,
        "avg_n": avg_n,
        "anchor_tokens": anchor_tokens,
        "row_tokens": parse_row_tokens(row_tokens),
        "loss_on": loss_on,
        "max_tokens": max_tokens,
        "drop_refusals": drop_refusals,
        "windows": windows,
        "memory": memory,
        "tokens": tokens,
        "format": format,
        "mapping": parse_mapping(mapping) if mapping else None,
        "limit": limit,
        "device": device,
        "dtype": dtype,
        "attention": attention,
        "token_budget": token_budget,
        "shard_rows": shard_rows,
        "seed": seed,
    }
    say_default_model(context, quiet)
    if shard is not None and forecast is not None:
        raise RipcurrentError("--forecast speaks of all rows, and --shard scores a part.", "Give it without --shard.")
    part = None if shard is None else _part_of(dataset, shard, out, execution, changes)
    with TerminalProgress().shown() if not quiet else nullcontext() as progress:
        run = scan(dataset, out, part=part, execution=execution, progress=progress, **changes)
        if run.finished:
            _add_forecast_and_page(run, forecast, progress)
    if not run.finished:
        _show_part(run, part, as_json=as_json, quiet=quiet)
    elif as_json:
        print_json({**run.to_json(), "forecast": read_forecast(run.folder)})
    elif not quiet:
        show_summary(run)


def _add_forecast_and_page(run: ScanRun, calibration: Path | None, progress: Progress | None) -> None:
    """What a finished scan's folder has besides its scores."""
    from ripcurrent.forecast._calibration import find_calibration
    from ripcurrent.forecast._coherence import CoherenceOfRuns, Rows
    from ripcurrent.forecast._trained_rows import ScoredSource
    from ripcurrent.forecast._write import write_forecast
    from ripcurrent.progress import SilentProgress
    from ripcurrent.report import build_report

    progress = progress or SilentProgress()
    coherence = CoherenceOfRuns(progress)

    def measure(rows: Rows) -> float:
        return coherence(ScoredSource(run.folder), [int(row) for row in rows], run.folder)

    can_measure = run.options.wants_gradient and run.options.memory is None
    chosen = None if calibration is None else find_calibration(calibration)
    write_forecast(run.folder, chosen, measure=measure if can_measure else None)
    progress.step("writing the page")
    build_report(run)


def _part_of(dataset: str, shard: str, out: Path | None, execution: Execution, changes: dict[str, Any]) -> Part:
    import os

    from ripcurrent.data import read_rows
    from ripcurrent.runs import refuse_other_cut
    from ripcurrent.scan import bind_local_gpu, default_folder, parse_part

    part = parse_part(shard, os.environ)
    if shard == "auto":
        folder = out or default_folder(read_rows(dataset, format=changes["format"], mapping=changes["mapping"]))
        refuse_other_cut(folder, part)
        if execution.executor == "local" and changes["device"] in (None, "cuda"):
            bind_local_gpu(os.environ)
    return part


def _show_part(run: ScanRun, part: Part | None, *, as_json: bool, quiet: bool) -> None:
    """Say what a part did while others are still to come."""
    from ripcurrent.cli._output import print_json

    fresh = int(run.manifest.timings["rows_scored_in_this_call"])
    if as_json:
        print_json({"run": str(run.folder), "part": str(part), "rows_scored_in_this_call": fresh})
    elif not quiet:
        typer.echo(f"Part {part}: {fresh} rows scored now. The part that ends last writes the scores of all.")


def parse_row_tokens(text: str) -> int | None:
    """``all`` or a positive number.

    Raises:
        RipcurrentError: Anything else.
    """
    from ripcurrent.errors import RipcurrentError

    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise RipcurrentError(f"--row-tokens {text} is not a number of tokens.", "Write all, or a number from 1.")
    return int(text)


def one_line(text: str) -> str:
    """A dataset's text as one line that cannot command the terminal: no line ends, no control characters."""
    return " ".join("".join(" " if _commands(c) else c for c in text).split())


def harmless(text: str) -> str:
    """A text as it is, lines and all, in which nothing can command the terminal."""
    return "".join("�" if _commands(c) and c not in "\n\t" else c for c in text)


def _commands(character: str) -> bool:
    """Whether a character can command a terminal: control characters, lone surrogates, marks that turn text around.

    Spaces and joiners of any language are text.
    """
    import unicodedata

    turns_around = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in turns_around


def shorten(text: str, room: int) -> str:
    """One line of at most ``room`` characters, an ellipsis at the end of what was cut."""
    line = one_line(text)
    return line if len(line) <= room else line[: room - 1] + "…"


def show_summary(run: ScanRun) -> None:
    """Print a finished scan's verdict, riskiest rows and format shares."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from ripcurrent.scan import format_shares, riskiest_rows, scan_notes, score_quantiles, weak_anchors_note

    console, manifest, counts = Console(), run.manifest, run.status_counts()
    scored = counts.pop("ok", 0)
    unscored = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(
        f"[bold]{scored}[/bold] of {run.rows} rows scored"
        + (f" ({unscored})" if unscored else "")
        + f" · {escape(manifest.model.name)} · anchors {escape(manifest.anchors.name)}",
        highlight=False,
    )
    for note in manifest.row_notes:
        console.print(escape(note), soft_wrap=True, highlight=False)
    if manifest.anchors.separation:
        parts = ", ".join(f"{name} {value:.2f}" for name, value in manifest.anchors.separation.items())
        console.print(f"The anchors' separation (leave-one-out AUROC): {parts}", highlight=False)
    if (weak := weak_anchors_note(run)) is not None:
        console.print(f"[bold red]{escape(weak)}[/bold red]", highlight=False)

    scores = Table(
        "score", "5 %", "50 %", "95 %", "99 %", "length", box=box.SIMPLE_HEAD, title="Scores", pad_edge=False
    )
    scores.columns[0].no_wrap = True
    scores.caption = "length: rank correlation with the number of response tokens"
    for score in score_quantiles(run):
        cells = [f"{score.quantiles[at]:+.4f}" for at in (0.05, 0.5, 0.95, 0.99)]
        correlation = score.spearman_with_length
        scores.add_row(score.name, *cells, "" if isnan(correlation) else f"{correlation:+.2f}")
    console.print(scores)

    title = f"Riskiest rows by {run.default_ranking}"
    rows = Table("#", "row", "score", "tokens", "format", "prompt", box=box.SIMPLE_HEAD, title=title)
    # rich squeezes the numbers rather than a long text, so the text is clipped here
    room = max(20, console.width - 54)
    for rank, row in enumerate(riskiest_rows(run), start=1):
        prompt = Text(shorten(row.prompt or "", room))
        rows.add_row(
            str(rank), str(row.row), f"{row.score:+.4f}", str(row.response_tokens), " ".join(row.traits), prompt
        )
    console.print(rows)

    top_rows = f"riskiest {min(100, len(run.ranked()))}"
    shares = Table("format", top_rows, "all scored", box=box.SIMPLE_HEAD, title="Format shares")
    for name, (top, whole) in format_shares(run).items():
        if name == "response_tokens":
            shares.add_row("mean response tokens", f"{top:.0f}", f"{whole:.0f}")
        else:
            shares.add_row(name, f"{top:.0%}", f"{whole:.0%}")
    console.print(shares)
    for line in [*scan_notes(run), *_forecast_lines(run.folder)]:
        console.print(escape(line), soft_wrap=True, highlight=False)
    console.print(
        "A score is a claim, not proof: compare any selection with its length-matched controls (ripcurrent select).",
        soft_wrap=True,
    )
    console.print(f"Scores: {escape(str(run.scores_path))}", soft_wrap=True, highlight=False)
    console.print(f"Page:   {escape(str(run.folder / 'report.html'))}", soft_wrap=True, highlight=False)


def _forecast_lines(folder: Path) -> list[str]:
    """The forecast in sentences, or one that says that there is none."""
    from ripcurrent.forecast._sentences import forecast_lines, read_forecast
    from ripcurrent.forecast._write import why_none

    if (forecast := read_forecast(folder)) is not None:
        return forecast_lines(forecast)
    if (reason := why_none(folder)) is not None:
        reason = reason.removeprefix("the calibration does not match this scan: ")
        return [f"No forecast: the calibration for this model does not match this scan: {reason}."]
    return ["No forecast: there is no calibration for this model (ripcurrent calibrate)."]
