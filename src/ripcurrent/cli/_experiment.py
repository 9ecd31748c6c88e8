"""``ripcurrent experiment``: arms × seeds trained, questioned, judged and compared."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ripcurrent.cli._command import command
from ripcurrent.cli._output import Output
from ripcurrent.cli._text import figure, interval, say, show_table

if TYPE_CHECKING:
    from ripcurrent.experiment import ArmComparison, ExperimentResults


EXAMPLES = ("ripcurrent experiment list", "ripcurrent experiment own --run runs/support --recipe lora --size 1000")


@command("experiment", examples=EXAMPLES)
def experiment_command(
    file: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="A YAML file, a ready experiment by its name, or list.")
    ],
    output: Output,
    model: Annotated[
        str | None, typer.Option("-m", "--model", metavar="M", help="Another model than the file's.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(metavar="R", help="Another recipe than the file's.")] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="SCAN", help="Use the rows, scores and model of this finished scan.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FOLDER", help="Run folder; runs/NAME when left out.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="N|P%", help="Rows of an arm, or a share of the pool; replaces the file's.")
    ] = None,
    arms: Annotated[
        str | None, typer.Option(metavar="A,B", help="Run only these arms now. Tables show every finished arm.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", min=1, help="N seeds from 0; replaces the file's.")] = None,
    no_anchor_check: Annotated[
        bool, typer.Option("--no-anchor-check", help="Scan even if the anchors do not separate on this model.")
    ] = False,
    gate: Annotated[bool, typer.Option("--gate", help="Exit with 3 when the verdict is worse than random.")] = False,
) -> None:
    """Fine-tune on selections and controls, ask, judge, and say what is significant.

    Exits with 0 for a verdict, with 4 where there is not enough evidence for one, and with --gate with 3 for worse than
    random. Given again, the command goes on where it was stopped; finished arms are never repeated.
    """
    from ripcurrent.errors import ExitCode
    from ripcurrent.experiment import Experiment, parse_experiment, read_experiment_file, ready_experiments
    from ripcurrent.report import build_experiment_page

    if file == "list":
        titles = ready_experiments()
        output.answer(lambda: titles, lambda: say(*(f"{name:18} {title}" for name, title in titles.items())))
        return
    values = _with_changes(read_experiment_file(file), model, recipe, run, size)
    given = {"--model": model, "--recipe": recipe, "--run": run, "--out": out, "--size": size, "--arms": arms}
    words = [f"{word}" for name, value in {**given, "--seeds": seeds}.items() if value for word in (name, value)]
    if no_anchor_check:
        values["anchor_check"] = False
        words.append("--no-anchor-check")
    with output.progress() as progress:
        result = Experiment(parse_experiment(values, where=file), file).run(
            out or Path("runs") / str(values["name"]),
            arms=None if arms is None else [name.strip() for name in arms.split(",") if name.strip()],
            seeds=seeds,
            command=shlex.join(["ripcurrent", "experiment", file, *words]),
            progress=progress,
        )
    build_experiment_page(result)
    output.answer(result.to_json, lambda: _show(result))
    if gate and result.verdict == "worse than random":
        raise typer.Exit(int(ExitCode.GATE_FAILED))
    # without an arm that is compared there is none to come to
    if result.verdict == "not enough evidence" and result.deciding:
        raise typer.Exit(int(ExitCode.NOT_ENOUGH_EVIDENCE))


def _with_changes(
    values: dict[str, Any], model: str | None, recipe: str | None, run: Path | None, size: str | None
) -> dict[str, Any]:
    """A file's keys with those that the command line gives."""
    if run is not None:
        for key in ("data", "format", "scan", "model", "adapter"):
            values.pop(key, None)
        values["run"] = str(run)
    if model is not None:
        values["model"] = model
        # an adapter is of the model that the file names
        values.pop("adapter", None)
    if recipe is not None:
        values["recipe"] = recipe
    if size is not None:
        values["size"] = int(size) if size.isdecimal() else size
        values.pop("sizes", None)
    return values


def _show(results: ExperimentResults) -> None:
    judge = results.judge
    summaries = [one for one in results.summaries if one.judge == judge]
    show_table(
        ("arm", "answered", "95 %", "broken", "over-\nrefusal", "plain", "d′", "seeds"),
        [
            (
                *(one.name, figure(one.attack_success_rate, ".1%"), interval(one.low, one.high, ".1%")),
                *(figure(share, ".1%") for share in (one.degenerate, one.over_refusal, one.plain_answered)),
                figure(None if one.discrimination is None else one.discrimination.d_prime),
                str(len(one.seeds)),
            )
            for one in summaries
        ],
    )
    pairs = [*results.comparisons, *results.further_comparisons]
    say(
        *(_compared(pair) for pair in pairs if pair.judge == judge),
        *results.notes,
        *(f"{run.name}, seed {run.seed}: failed. {run.reason}" for run in results.failed),
    )
    version = summaries[0].judge_version if summaries else ""
    say(f"Verdict: {results.verdicts_in_words[judge]} (judge {judge} {version})", style="bold")
    say(f"Page: {results.folder / 'report.html'}")


def _compared(one: ArmComparison) -> str:
    """A comparison in a line: difference in points, interval, p, finding."""
    finding: str = one.finding
    if finding == "worse than random":
        finding = f"worse than {one.control}"
        if one.low <= 0:
            finding += ", in these runs: other seeds may differ, for the interval holds 0"
    return (
        f"{one.arm} − {one.control}: {100 * one.difference:+.1f} points "
        f"({100 * one.low:+.1f} to {100 * one.high:+.1f}), adjusted p {one.adjusted_p:.4f}: {finding}"
    )
