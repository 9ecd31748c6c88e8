"""``ripcurrent scan``: score every row of a dataset."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ripcurrent.scan._execution import Execution
    from ripcurrent.scan._summary import ScanSummary

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
PRESET = Annotated[str, typer.Option(help="intended, or released: the reference code's quirks.")]
ATTENTION = Annotated[str, typer.Option(help="sdpa, or eager: least sensitive to batch shape.")]
WINDOWS = Annotated[
    bool, typer.Option("--windows", help="Cut plain documents longer than --max-tokens into windows, each scored.")
]
TOKEN_BUDGET = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Padded tokens per batch: 512 on a processor, 2048 on MPS, 4096 on CUDA; auto: the fastest of several.",
    ),
]
ROW_TOKENS = Annotated[str, typer.Option(metavar="all|N", help="First tokens of a row's response used.")]
PER_ANCHOR = Annotated[
    bool, typer.Option("--per-anchor", help="A gradient column for each anchor; costs extra passes.")
]
PREFILTER = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="Gradients only for this share of the rows, such as 10%, by a cheap pass."),
]
PREFILTER_SAMPLE = Annotated[
    int, typer.Option(metavar="N", help="Random rows with gradients too: they measure what a prefilter misses.")
]
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
    preset: PRESET = "intended",
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
    per_anchor: PER_ANCHOR = False,
    forecast: FORECAST = None,
    tokens: TOKENS = None,
    windows: WINDOWS = False,
    prefilter: PREFILTER = None,
    prefilter_by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Which score picks them: representation_bidirectional unless it is _harmful or _safe.",
        ),
    ] = None,
    prefilter_sample: PREFILTER_SAMPLE = 1000,
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
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of a fresh LoRA and of the prefilter's random rows.")
    ] = 0,
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
    from ripcurrent.scan._execution import Execution
    from ripcurrent.scan._scan import scan
    from ripcurrent.scan._summary import summarise_scan

    changes: dict[str, Any] = {
        "model": model,
        "adapter": adapter,
        "signals": signals,
        "anchors": anchors,
        "anchor_check": not no_anchor_check,
        "scope": scope,
        "preset": preset,
        "position": position,
        "layer": layer,
        "avg_n": avg_n,
        "anchor_tokens": anchor_tokens,
        "row_tokens": parse_row_tokens(row_tokens),
        "loss_on": loss_on,
        "max_tokens": max_tokens,
        "drop_refusals": drop_refusals,
        "per_anchor": per_anchor,
        "windows": windows,
        "prefilter": prefilter,
        "prefilter_by": prefilter_by,
        "prefilter_sample": prefilter_sample,
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
    execution = Execution(executor, workers, ray_address)
    say_default_model(context, quiet)
    if shard is not None:
        if forecast is not None:
            raise RipcurrentError("--forecast speaks of all rows, and --shard scores a part.", "Give it to merge.")
        _scan_part(dataset, shard, out, execution, changes, as_json=as_json, quiet=quiet)
        return
    if quiet:
        result = scan(dataset, out, execution=execution, forecast=forecast, **changes)
    else:
        with TerminalProgress().shown() as progress:
            result = scan(dataset, out, execution=execution, forecast=forecast, progress=progress, **changes)
    if as_json:
        print_json(summarise_scan(result.folder).as_json())
    elif not quiet:
        show_summary(summarise_scan(result.folder))


def _scan_part(
    dataset: str,
    shard: str,
    out: Path | None,
    execution: Execution,
    changes: dict[str, Any],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    import os

    from ripcurrent.cli._output import TerminalProgress, print_json
    from ripcurrent.runs import refuse_other_cut
    from ripcurrent.scan._part import bind_local_gpu, parse_part
    from ripcurrent.scan._scan import default_folder, scan_part

    part = parse_part(shard, os.environ)
    if shard == "auto":
        refuse_other_cut(out or default_folder(dataset, changes), part)
        if execution.executor == "local" and changes["device"] in (None, "cuda"):
            bind_local_gpu(os.environ)
    if quiet:
        result = scan_part(dataset, part, out, execution=execution, **changes)
    else:
        with TerminalProgress().shown() as progress:
            result = scan_part(dataset, part, out, execution=execution, progress=progress, **changes)
    fresh = result.rows_scored_in_this_call
    if as_json:
        folder = str(result.folder)
        about = {"rows": result.rows, "rows_scored_in_this_call": fresh, "waits": result.waits}
        print_json({"run": folder, "part": str(part), **about})
    elif not quiet and result.waits:
        typer.echo(f"Part {part}: the representation pass over its {result.rows} rows is done, other parts' is not.")
        typer.echo("Rows are picked from all of them: give this command once more when every part has come so far")
        typer.echo(f"in {result.folder}, which all parts must share.")
    elif not quiet:
        done = f"{fresh} of them scored now"
        if changes["prefilter"] is not None:
            done = f"both passes are done, {fresh} rows of either computed now"
        typer.echo(f"Part {part}: {result.rows} rows, {done}.")
        typer.echo(f"When all {part.of} parts are done: ripcurrent merge {result.folder}")


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


def show_summary(summary: ScanSummary) -> None:
    """Print a finished scan's verdict, riskiest rows and format shares."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    console = Console()
    unscored = ", ".join(f"{count} {status}" for status, count in summary.unscored.items())
    console.print(
        f"[bold]{summary.scored}[/bold] of {summary.rows} rows scored"
        + (f" ({unscored})" if unscored else "")
        + f" · {escape(summary.model)} · anchors {escape(summary.anchors)}",
        highlight=False,
    )
    for note in summary.row_notes:
        console.print(escape(note), soft_wrap=True, highlight=False)
    if summary.separation:
        parts = ", ".join(f"{name} {value:.2f}" for name, value in summary.separation.items())
        console.print(f"The anchors' separation (leave-one-out AUROC): {parts}", highlight=False)
    if (weak := summary.weak_anchors_line()) is not None:
        console.print(f"[bold red]{escape(weak)}[/bold red]", highlight=False)

    scores = Table(
        "score", "5 %", "50 %", "95 %", "99 %", "length", box=box.SIMPLE_HEAD, title="Scores", pad_edge=False
    )
    scores.columns[0].no_wrap = True
    scores.caption = "length: rank correlation with the number of response tokens"
    for score in summary.scores:
        cells = [f"{score.quantiles[at]:+.4f}" for at in (0.05, 0.5, 0.95, 0.99)]
        correlation = score.spearman_with_length
        scores.add_row(score.name, *cells, "" if isnan(correlation) else f"{correlation:+.2f}")
    console.print(scores)

    title = f"Riskiest rows by {summary.ranking}"
    rows = Table("#", "row", "score", "tokens", "format", "prompt", box=box.SIMPLE_HEAD, title=title)
    # rich squeezes the numbers rather than a long text, so the text is clipped here
    room = max(20, console.width - 54)
    for rank, row in enumerate(summary.riskiest, start=1):
        prompt = Text(shorten(row.prompt or "", room))
        rows.add_row(
            str(rank), str(row.row), f"{row.score:+.4f}", str(row.response_tokens), " ".join(row.traits), prompt
        )
    console.print(rows)

    shares = Table("format", f"riskiest {summary.top}", "all scored", box=box.SIMPLE_HEAD, title="Format shares")
    for name, (top, whole) in summary.format_shares.items():
        shares.add_row(name, f"{top:.0%}", f"{whole:.0%}")
    shares.add_row("mean response tokens", f"{summary.mean_tokens[0]:.0f}", f"{summary.mean_tokens[1]:.0f}")
    console.print(shares)
    if (cut := summary.truncated_line()) is not None:
        console.print(cut, soft_wrap=True, highlight=False)
    if summary.other_base is not None:
        console.print(escape(summary.other_base), soft_wrap=True, highlight=False)
    if (passed := summary.memory_line()) is not None:
        console.print(passed, highlight=False)
    if (left_out := summary.left_out_line()) is not None:
        console.print(escape(left_out), soft_wrap=True, highlight=False)
    if summary.prefilter is not None:
        console.print(f"[bold]{summary.prefilter}[/bold]", soft_wrap=True, highlight=False)
    for line in summary.forecast_lines():
        console.print(escape(line), soft_wrap=True, highlight=False)
    console.print(
        "A score is a claim, not proof: compare any selection with its length-matched controls (ripcurrent select).",
        soft_wrap=True,
    )
    console.print(f"Scores: {escape(str(summary.folder / 'scores.parquet'))}", soft_wrap=True, highlight=False)
    console.print(f"Page:   {escape(str(summary.folder / 'report.html'))}", soft_wrap=True, highlight=False)
