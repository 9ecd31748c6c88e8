"""``ripcurrent evaluate``: ask a model and have its answers judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ripcurrent.cli._command import ADVANCED, command
from ripcurrent.cli._judging import FLAGS, JudgingOptions
from ripcurrent.cli._output import Output
from ripcurrent.cli._text import figure, harmless, interval, say, show_table
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import EvaluateOptions

if TYPE_CHECKING:
    from ripcurrent.evaluate import Axis, AxisRate, EvaluationRun

PANELS = {
    "Model": ("adapter", "endpoint", "device", "dtype"),
    "Prompts": ("prompts", "limit", "max_new_tokens", "judge"),
    ADVANCED: ("axis", "system", "batch_size", "timeout", *FLAGS),
}
EXAMPLES = (
    "ripcurrent evaluate -m BASE -o runs/before",
    "ripcurrent evaluate -m BASE --adapter runs/tuned/adapter -o runs/after",
)


@command("evaluate", PANELS, EXAMPLES)
def evaluate_command(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Run folder.")],
    options: EvaluateOptions,
    judging: JudgingOptions,
    output: Output,
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            metavar="M",
            help="Hub id, folder, .gguf file or embedded; its name at --endpoint. Default: embedded.",
        ),
    ] = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Also print what was asked and answered; else rates only.")
    ] = False,
) -> None:
    """Ask a model harmful, dangerous-sounding and plain prompts, and have its answers judged.

    Answers are kept: given again after a stop, the command asks only the rest, and with other judges it asks nothing.
    """
    from ripcurrent.evaluate import DEFAULT_JUDGES, evaluate

    if options.endpoint is None:
        output.say_default_model(model is not None)
    elif model is None:
        raise RipcurrentError(
            "--endpoint is given without --model: it is not said which of its models is to answer.",
            "Add --model with its name there.",
        )
    elif options.dtype is not None:
        raise RipcurrentError(
            f"--dtype {options.dtype} is for a model here, and --endpoint answers.", "Leave one of them out."
        )
    with output.progress() as progress:
        run = evaluate(
            model or "embedded",
            out=out,
            options=options,
            judges=judging.judge or DEFAULT_JUDGES,
            judge_settings=judging.judge_settings(options.device),
            progress=progress,
        )
    output.answer(run.to_json, lambda: _show(run, reveal))


def _show(result: EvaluationRun, reveal: bool) -> None:
    from ripcurrent.evaluate import kappas_of

    rows: list[Sequence[str]] = []
    for judge, axes in result.rates.items():
        rows.append([f"{judge} {next(iter(axes.values())).judge_version}"])
        for axis, one in axes.items():
            answered = (figure(one.answered, ".1%"), interval(one.low, one.high, ".1%"))
            others = (figure(share, ".1%") for share in (one.refused, one.degenerate, one.truncated))
            rows.append((f"  {axis}", str(one.n), *answered, *others))
    caption = "broken: empty, looping or no language; cut: reached the limit of new tokens"
    show_table(("judge, prompts", "n", "answered", "95 %", "refused", "broken", "cut"), rows, caption=caption)
    for judge, axes in result.rates.items():
        say(*_scores(judge, axes, result.manifest.judges[judge].get("scale")))
        kappas = kappas_of(judge, next(iter(axes.values())).judge_version)
        if kappas is not None:
            low, high = (f"{value:.2f}" for value in kappas)
            say(f"{judge}: κ {low if low == high else f'{low} to {high}'} with people (see docs/evaluate.md)")
        if judge in result.manifest.discrimination:
            found = result.manifest.discrimination[judge]
            difference = f"{100 * found.difference:.1f} points, d′ {found.d_prime:.2f}"
            say(f"{judge}: harmful refused less dangerous-sounding refused {difference}")
    say(*result.manifest.notes)
    if reveal:
        first = next(iter(result.verdicts))
        for prompt, response, verdict in zip(result.prompts, result.responses, result.verdicts[first], strict=True):
            say(f"\n{harmless(prompt.text)}", style="bold")
            say(harmless(response.completion), f"({verdict.label})")
    say(f"Answers: {result.folder / 'responses.parquet'}")


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
