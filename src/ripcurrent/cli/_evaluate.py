"""``ripcurrent evaluate``: ask a model and have its answers judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ripcurrent.cli._judge_options import (
    JUDGE,
    JUDGE_CONCURRENCY,
    JUDGE_ENDPOINT,
    JUDGE_KEY_ENV,
    JUDGE_MAX_TOKENS,
    JUDGE_MODEL,
    JUDGE_TIMEOUT,
    judge_settings,
)
from ripcurrent.cli._scan import ADAPTER, DTYPE, JSON, QUIET, SPREAD_DEVICE, harmless

if TYPE_CHECKING:
    from ripcurrent.evaluate import Axis, AxisRate, EvaluationRun


def evaluate_command(
    context: typer.Context,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Run folder.")],
    model: Annotated[
        str, typer.Option(metavar="M", help="Hub id, folder, .gguf file, or embedded; with --endpoint its name there.")
    ] = "embedded",
    adapter: ADAPTER = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(metavar="P", help="builtin, builtin:AXIS, a file or hf:owner/name; repeatable."),
    ] = None,
    axis: Annotated[
        str, typer.Option(help="Of prompts that do not say theirs: harmful, sounds_dangerous or plain.")
    ] = "harmful",
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N prompts of each axis and set.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Longest answer.")] = 64,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Prompts at once: 32 here, 4 at an endpoint.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System prompt; the template's own unless given.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible endpoint that answers, as http://host:8000/v1.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="S", help="Seconds that the endpoint may be silent in one attempt of five.")
    ] = 60.0,
    judges: JUDGE = None,
    judge_endpoint: JUDGE_ENDPOINT = None,
    judge_model: JUDGE_MODEL = None,
    judge_key_env: JUDGE_KEY_ENV = None,
    judge_timeout: JUDGE_TIMEOUT = 60.0,
    judge_concurrency: JUDGE_CONCURRENCY = 4,
    judge_max_tokens: JUDGE_MAX_TOKENS = None,
    device: SPREAD_DEVICE = None,
    dtype: DTYPE = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Also print what was asked and answered; else rates only.")
    ] = False,
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Ask a model harmful, dangerous-sounding and plain prompts, and have its answers judged.

    Answers are kept: given again after a stop, the command asks only the rest, and with other judges it asks nothing.
    """
    from contextlib import nullcontext

    from ripcurrent.cli._output import TerminalProgress, is_default, print_json, say_default_model
    from ripcurrent.errors import RipcurrentError
    from ripcurrent.evaluate import DEFAULT_JUDGES, evaluate
    from ripcurrent.progress import SilentProgress

    options: dict[str, Any] = {
        "adapter": adapter,
        "prompts": prompts or ["builtin"],
        "axis": axis,
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "system": system,
        "endpoint": endpoint,
        "timeout": timeout,
        "device": device,
        "dtype": dtype,
    }
    settings = judge_settings(
        judge_endpoint, judge_model, judge_key_env, judge_timeout, judge_concurrency, judge_max_tokens, device
    )
    if endpoint is None:
        say_default_model(context, quiet)
    elif is_default(context, "model"):
        raise RipcurrentError(
            "--endpoint is given without --model: it is not said which of its models is to answer.",
            "Add --model with its name there.",
        )
    elif dtype is not None:
        raise RipcurrentError(f"--dtype {dtype} is for a model here, and --endpoint answers.", "Leave one of them out.")
    with nullcontext(SilentProgress()) if quiet else TerminalProgress().shown() as progress:
        result = evaluate(
            model, out=out, judges=judges or DEFAULT_JUDGES, judge_settings=settings, progress=progress, **options
        )
    if as_json:
        print_json(result.to_json())
    elif not quiet:
        _show(result, reveal)


def _show(result: EvaluationRun, reveal: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ripcurrent.evaluate import kappas_of

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("judge", "prompts", "n", "answered", "95 %", "refused", "broken", "cut"):
        table.add_column(heading, justify="left" if heading in ("judge", "prompts") else "right")
    for judge, axes in result.rates.items():
        for axis, one in axes.items():
            low, high, *shares = (
                "–" if share is None else f"{100 * share:.1f}"
                for share in (one.low, one.high, one.answered, one.refused, one.degenerate, one.truncated)
            )
            interval = "–" if one.low is None else f"{low}–{high}"
            table.add_row(escape(f"{judge} {one.judge_version}"), axis, str(one.n), shares[0], interval, *shares[1:])
    console = Console(highlight=False, emoji=False)
    console.print(table)
    console.print("in % of n; broken: empty, looping or no language; cut: reached the limit of new tokens")
    wide = Console(soft_wrap=True, highlight=False, emoji=False)
    for judge, axes in result.rates.items():
        for line in _scores(judge, axes, result.manifest.judges[judge].get("scale")):
            wide.print(escape(line))
    for judge, axes in result.rates.items():
        told = kappas_of(judge, next(iter(axes.values())).judge_version)
        if told is not None:
            low, high = (f"{value:.2f}" for value in told)
            wide.print(f"{escape(judge)}: κ {low if low == high else f'{low} to {high}'} with people (docs/judges.md)")
    for judge, found in result.manifest.discrimination.items():
        wide.print(
            f"{escape(judge)}: harmful refused less dangerous-sounding refused {100 * found.difference:.1f} points, "
            f"d′ {found.d_prime:.2f}"
        )
    for note in result.manifest.notes:
        wide.print(escape(note))
    if reveal:
        first = next(iter(result.verdicts))
        for prompt, response, verdict in zip(result.prompts, result.responses, result.verdicts[first], strict=True):
            asked, answered = (escape(harmless(text)) for text in (prompt.text, response.completion))
            wide.print(f"\n[bold]{asked}[/bold]\n{answered}\n({verdict.label})")
    wide.print(f"Answers: {escape(str(result.folder / 'responses.parquet'))}")


def _scores(judge: str, axes: Mapping[Axis, AxisRate], scale: object) -> Iterator[str]:
    """A line on the scores of each axis, from judges that give any."""
    for axis, one in axes.items():
        score = one.score
        if score is None or score.mean is None or score.top_share is None or not isinstance(scale, list):
            continue
        mean = f"{score.mean:.2f}"
        if score.mean_low is not None:
            mean += f" ({score.mean_low:.2f} to {score.mean_high:.2f})"
        yield (
            f"{judge}, {axis}: mean score {mean} of {scale[0]:g} to {scale[1]:g}, {100 * score.top_share:.1f} % "
            f"with the greatest, over {score.n} answers"
        )
